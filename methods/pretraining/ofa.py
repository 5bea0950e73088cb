"""Pretrains a (tiny) OFA on questions about pictures; it made the embedded OFA of ``backbones/checkpoints``.

First the trunk alone learns which of the things that captions name are visible (a linear head on its cells, pooled by
log-sum-exp), in the place of OFA's ImageNet trunk, and is then frozen. The rest learns OFA's own kinds of tasks as text:
captions, infilling, matching, naming regions from boxes, answering questions, often with the answers to choose from. The
head is kept for a reading of its own. No mask is used.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbones.ofa.config import BOS, EOS, PAD
from backbones.ofa.loading import find_weights, read_weights
from common.errors import UserError
from common.values import Amount, Natural
from methods.ifseg.ofa_segmenter import OFASegmenter
from methods.optim import adamw_in_two_phases
from methods.pretraining.tagging import tagging_loss
from methods.supervision import Supervision
from methods.training_steps import Exported


class OFAPretraining(OFASegmenter):
    """OFA's multi-task training from random weights, evaluated by the nearest word map.

    A phase trains a part of the weights: several processes need ``--trainer.strategy ddp_find_unused_parameters_true``.

    Args:
        learning_rate: peak, after ``warmup_steps``, then half a cosine to 0, of the trunk's phase and of the rest.
        weight_decay: of AdamW, on matrices only.
        warmup_steps: steps of linear warm-up.
        tagging_steps: steps of the trunk alone.
        tags: number of things that a caption can name.
        trunk: ``embedded`` or a file of weights whose trunk and tagging head are taken, in the place of the tagging phase.
        options: as of :class:`methods.ifseg.ofa_segmenter.OFASegmenter`, which starts from random weights here.
    """

    sees = Supervision.BOXES
    frozen_trunk = False

    def __init__(
        self,
        learning_rate: Amount = 1e-3,
        weight_decay: Amount = 0.05,
        warmup_steps: Natural = 50,
        tagging_steps: Natural = 400,
        tags: Natural = 20,
        trunk: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__(weights=None, drop_path=0.0, **options)
        self.tag_head = nn.Linear(self.ofa.encoder.embed_images.channels, tags)
        self.learning_rate, self.weight_decay, self.warmup_steps = learning_rate, weight_decay, warmup_steps
        self.tagging_steps = tagging_steps if trunk is None else 0
        self.tag_names: list[str] = []
        if trunk is not None:
            self._take_trunk(find_weights(trunk))

    def _take_trunk(self, path: Path) -> None:
        weights, prefix = read_weights(path), "encoder.embed_images."
        found = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
        head = {name.removeprefix("tag_head."): value for name, value in weights.items() if name.startswith("tag_head.")}
        try:
            self.ofa.encoder.embed_images.load_state_dict(found | _batch_counts(self.ofa.encoder.embed_images))
            self.tag_head.load_state_dict(head)
        except RuntimeError as error:
            raise UserError(f"'{path}' holds no trunk and tagging head of this size: {str(error).splitlines()[-1]}") from error

    def read(self, features: Tensor) -> Tensor:
        return self.word_map_likeness(self.ofa.encode_features(features, self.source))

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        if self.global_step < self.tagging_steps:
            return self._tagging_loss(self.ofa.trunk(batch["image"]), batch["visible"])
        self.ofa.encoder.embed_images.eval()  # its statistics are frozen too
        with torch.no_grad():
            features = self.ofa.trunk(batch["image"])
        questions = [question for asked in batch["question"] for question in asked]
        answers = [answer for said in batch["answer"] for answer in said]
        source, target = self._pieces(questions), self._pieces(answers)
        features = features.repeat_interleave(len(questions) // len(features), 0)
        decoded = self.ofa.decode_text(self.ofa.encode_features(features, source), target[:, :-1])
        loss = F.cross_entropy((decoded @ self.ofa.words.T).float().flatten(0, 1), target[:, 1:].flatten(), ignore_index=PAD)
        self.log("train/answers", loss, prog_bar=True)
        return loss

    def _tagging_loss(self, features: Tensor, visible: Tensor) -> Tensor:
        loss = tagging_loss(self.tag_head(features.flatten(2).transpose(1, 2)), visible)
        self.log("train/tagging", loss)
        return loss

    def _pieces(self, texts: list[str]) -> Tensor:
        """(B, T) of <s>, the pieces, </s> and padding."""
        rows = [torch.tensor([BOS, *self.tokenizer.encode(text), EOS]) for text in texts]
        return nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=PAD).to(self.device)

    def configure_optimizers(self) -> Any:
        total = int(self.trainer.estimated_stepping_batches)
        return adamw_in_two_phases(self, self.learning_rate, self.weight_decay, self.warmup_steps, self.tagging_steps, total)

    def on_validation_epoch_start(self) -> None:
        """The word embeddings have moved since the class names were embedded."""
        self.use_vocabulary(self.vocabulary)
        super().on_validation_epoch_start()

    def prepare_fit(self, images: Any, workers: int) -> None:
        """Remembers what the tagging head's outputs are called."""
        self.tag_names = images.tag_names

    def export(self) -> dict[str, Exported]:
        """The weights in half precision, as they are shipped."""
        weights = {k: v for k, v in self.ofa.state_dict().items() if not k.endswith("num_batches_tracked")}
        weights |= {f"tag_head.{k}": v for k, v in self.tag_head.state_dict().items()}
        halves = {name: value.half() for name, value in weights.items()}
        return {"ofa.safetensors": Exported(halves, {"tags": json.dumps(self.tag_names)})}


def _batch_counts(trunk: nn.Module) -> dict[str, Tensor]:
    """Batch norm's counters, which weights are shipped without."""
    return {name: value for name, value in trunk.state_dict().items() if name.endswith("num_batches_tracked")}
