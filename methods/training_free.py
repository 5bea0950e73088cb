"""The training-free family: dense CLIP tokens under an attention rule against text embeddings.

CLIP, MaskCLIP (ECCV 2022), CLIP Surgery (2023), GEM (CVPR 2024), SCLIP and ClearCLIP (ECCV 2024), NACLIP (WACV 2025).
"""

from __future__ import annotations

import torch
from torch import Tensor

from backbones.attention import rule_named
from backbones.feature_surgery import feature_surgery
from methods.dense_clip import DenseCLIP


class TrainingFree(DenseCLIP):
    """Dense CLIP under one of the rules of :mod:`backbones.attention`."""

    def score_with_features(self, images: Tensor) -> tuple[Tensor, Tensor]:
        surgery = rule_named(self.rule_name).surgery
        pooled, dense = self.backbone.tokens(images, self.rule_name, self.protocol.windows.position_resize, pooled=surgery)
        scores = torch.einsum("bchw,qc->bqhw", dense, self.text_QC)
        return scores if pooled is None else feature_surgery(scores, pooled @ self.text_QC.T), dense

    def forward(self, images: Tensor) -> Tensor:
        return self.score_with_features(images)[0]

    def patch_features(self, images: Tensor) -> Tensor:
        """CLIP's dense embeddings under the rule."""
        return self.dense(images)
