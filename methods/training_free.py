"""The training-free family: dense CLIP tokens under an attention rule against text embeddings.

CLIP, MaskCLIP (ECCV 2022), CLIP Surgery (2023), GEM (CVPR 2024), SCLIP and ClearCLIP (ECCV 2024), NACLIP (WACV 2025).
"""

from __future__ import annotations

import torch
from torch import Tensor

from backbones.attention import rule_named
from methods.dense_clip import DenseCLIP

SURGERY_SHARPNESS = 2.0  # of the class weights; hard-coded in the published code


class TrainingFree(DenseCLIP):
    """Dense CLIP under one of the rules of :mod:`backbones.attention`."""

    def forward(self, images: Tensor) -> Tensor:
        surgery = rule_named(self.rule_name).surgery
        pooled, dense = self.backbone.tokens(images, self.rule_name, self.protocol.windows.position_resize, pooled=surgery)
        scores = torch.einsum("bchw,qc->bqhw", dense, self.text_QC)
        return scores if pooled is None else feature_surgery(scores, pooled @ self.text_QC.T)

    def patch_features(self, images: Tensor) -> Tensor:
        """CLIP's dense embeddings under the rule."""
        return self.dense(images)


def feature_surgery(scores: Tensor, image_scores: Tensor) -> Tensor:
    """CLIP Surgery, section 3.2, in its collapsed form: w_k <f, t_k> - mean_j w_j <f, t_j>, for any batch size.

    Args:
        scores: (B, Q, h, w) cosines of patches.
        image_scores: (B, Q) cosines of the image embedding; w is their softmax over classes relative to its mean.
    """
    weights = torch.softmax(SURGERY_SHARPNESS * image_scores, dim=-1) * image_scores.shape[-1]
    weighted = scores * weights[..., None, None]
    return weighted - weighted.mean(1, keepdim=True)
