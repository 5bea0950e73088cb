"""What the methods share that read a frozen self-supervised ViT beside their CLIP."""

from __future__ import annotations

from typing import Any

from backbones.patch_features import TINY, load_patch_features
from methods.dense_clip import DenseCLIP


class SecondTower(DenseCLIP):
    """Base of such methods.

    Args:
        dino: the second tower, see :func:`backbones.patch_features.load_patch_features`.
        dino_pretrained: whether it has its weights, or random ones.
        dino_revision: its commit, if it is a repository of the hub.
        options: as of :class:`methods.dense_clip.DenseCLIP`.
    """

    def __init__(
        self, dino: str = TINY, dino_pretrained: bool = True, dino_revision: str | None = None, **options: Any
    ) -> None:
        super().__init__(**options)
        self.dino = load_patch_features(dino, dino_pretrained, dino_revision)
        if dino_pretrained:
            self.pretrained_parts = (*self.pretrained_parts, "dino")
