"""The training-free family: dense tokens of a tower, CLIP's under an attention rule, against text embeddings.

CLIP, MaskCLIP (ECCV 2022), CLIP Surgery (2023), GEM (CVPR 2024), SCLIP and ClearCLIP (ECCV 2024), NACLIP (WACV 2025).
"""

from __future__ import annotations

import torch
from torch import Tensor

from backbones.attention import rule_named
from backbones.feature_surgery import feature_surgery
from methods.dense_clip import DenseCLIP


class TrainingFree(DenseCLIP):
    """A tower's tokens under one of the rules of :mod:`backbones.attention`, or as the tower itself compares with words."""

    def score_with_features(self, images: Tensor) -> tuple[Tensor, Tensor]:
        reading = {"rule": self.rule_name, "position_resize": self.protocol.windows.position_resize}
        if not rule_named(self.rule_name).surgery:
            return self.backbone.compare(images, self.text_QC, self.class_of_word, **reading)
        pooled, dense = self.backbone.tokens(images, pooled=True, **reading)
        assert pooled is not None
        return feature_surgery(torch.einsum("bchw,qc->bqhw", dense, self.text_QC), pooled @ self.text_QC.T), dense

    def forward(self, images: Tensor) -> Tensor:
        return self.score_with_features(images)[0]

    def patch_features(self, images: Tensor) -> Tensor:
        """The dense embeddings under the rule."""
        return self.dense(images)
