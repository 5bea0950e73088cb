"""Asking again without the network: other thresholds on kept scores, other words of remembered tokens (ViT-B/16, random)."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F

from backbones.remembered import TokenMemory, remembered
from benchmarks.timing import Ratio, paired
from evaluation import Protocol, Vocabulary
from evaluation.kept_scores import KeepScores
from evaluation.label_map import LabelMap
from methods import METHODS


def run() -> Iterator[Ratio]:
    model = METHODS["TrainingFree"]("sclip", clip="ViT-B-16", pretrained=None, protocol="sclip", window_batch=6)
    text = F.normalize(torch.randn(21, 512), dim=-1)
    model.backbone.embed_text = lambda words, *_: text[: len(words)]
    protocol = Protocol.preset("sclip", "voc21", wording="names")
    model.use_vocabulary(Vocabulary.load("voc21"), protocol)
    picture = torch.rand(3, 375, 500)

    def anew() -> list[LabelMap]:
        model.kept_scores = None
        return model.segment([picture])

    with tempfile.TemporaryDirectory() as folder:
        KeepScores(folder).on_test_start(None, model)
        kept = model.kept_scores
        assert kept is not None

        def from_disk() -> list[LabelMap]:
            model.kept_scores = kept
            return model.segment([picture])

        assert torch.equal(anew()[0].labels, from_disk()[0].labels)
        size = next(Path(folder).rglob("*.safetensors")).stat().st_size / 2**20
        what = f"a picture's label map, 21 classes, from kept scores ({size:.2f} MiB)"
        yield paired(what, from_disk, anew, runs=5)
    model.kept_scores = None
    memory = TokenMemory()

    def from_memory() -> list[LabelMap]:
        with remembered(model, memory):
            return model.segment([picture])

    assert torch.equal(anew()[0].labels, from_memory()[0].labels)
    yield paired("a picture's label map, 21 classes, from remembered tokens", from_memory, anew, runs=5)
    assert memory.recalled >= 5
