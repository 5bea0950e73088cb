"""Writes the tiny CLIP's byte-pair merges: every word of the embedded world's captions becomes one token.

Other words fall back to bytes, so any class name can be asked. Run once, before
the model is trained: ``python -m configs.pretrain.make_tiny_bpe``.
"""

import gzip
import json

from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from backbones.clip import CHECKPOINTS
from datamodules.shapes.datamodule import OPENINGS
from datamodules.shapes.world import WORLD_NAMES

words = " ".join([*WORLD_NAMES, *(opening.format("") for opening in OPENINGS), "and"])
tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
trainer = trainers.BpeTrainer(end_of_word_suffix="</w>", min_frequency=1, show_progress=False)
tokenizer.train_from_iterator([words], trainer)
merges = json.loads(tokenizer.to_str())["model"]["merges"]
lines = ["#version: tiny", *(" ".join(pair) for pair in merges)]
path = CHECKPOINTS / "tiny_clip_bpe.txt.gz"
path.write_bytes(gzip.compress("\n".join(lines).encode(), mtime=0))
print(f"{path.name}: {len(merges)} merges, vocabulary of {512 + len(merges) + 2}")
