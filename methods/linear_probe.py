"""The oracle: one linear layer on frozen dense tokens, trained *with* masks. It bounds what the features hold.

It is no zero-label method: it is reported outside the ranking, and it alone may see a mask in training.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbones.clip import CLIP, EMBEDDED
from common.values import Amount, Count
from methods.segmenter import Segmenter
from methods.supervision import Supervision


class LinearProbe(Segmenter):
    """A linear classifier of patch tokens before CLIP's projection; the vocabulary is fixed by its training.

    Args:
        num_classes: of the label space it is trained on.
        learning_rate: of AdamW.
        clip: open_clip model.
        pretrained: its weights.
        revision: commit of an ``hf-hub:`` model.
        options: as of :class:`Segmenter`.
    """

    sees = Supervision.MASKS
    scores = "logit"

    def __init__(
        self,
        num_classes: Count = 13,
        learning_rate: Amount = 5e-3,
        clip: str = "tiny_clip",
        pretrained: str | None = EMBEDDED,
        revision: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.closed = num_classes
        self.backbone = CLIP(clip, pretrained, revision)
        self.pretrained_parts = ("backbone",) if self.backbone.pretrained else ()
        self.head = nn.Conv2d(self.backbone.visual.transformer.width, num_classes, 1)
        self.learning_rate = learning_rate

    def followed_rules(self) -> frozenset[str]:
        return super().followed_rules() | {"position_resize"}

    def embed_vocabulary(self, words: list[str]) -> None:
        """Nothing to embed: output k is train id k."""
        self.class_of_word = torch.arange(self.vocabulary.num_classes, device=self.device)

    def forward(self, images: Tensor) -> Tensor:
        with torch.no_grad():
            x, grid = self.backbone.encode(images, self.protocol.windows.position_resize)
            features = self.backbone.visual.ln_post(x)[:, 1:].transpose(1, 2).unflatten(2, grid)
        logits: Tensor = self.head(features)
        return logits

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        logits = F.interpolate(self(batch["image"]), batch["mask"].shape[1:], mode="bilinear", align_corners=False)
        loss = F.cross_entropy(logits, batch["mask"].long(), ignore_index=255)
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.head.parameters(), lr=self.learning_rate)
