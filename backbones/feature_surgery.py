"""Feature surgery (CLIP Surgery, 2023, section 3.2): what all classes have in common is taken off their similarities."""

from __future__ import annotations

import torch
from torch import Tensor

SHARPNESS = 2.0  # of the class weights; hard-coded in the published code


def feature_surgery(scores: Tensor, image_scores: Tensor) -> Tensor:
    """The collapsed form, w_k <f, t_k> - mean_j w_j <f, t_j>, for any batch size.

    Args:
        scores: (B, Q, h, w) cosines of patches.
        image_scores: (B, Q) cosines of the image embedding; w is their softmax over classes relative to its mean.
    """
    weights = torch.softmax(SHARPNESS * image_scores, dim=-1) * image_scores.shape[-1]
    weighted = scores * weights[..., None, None]
    return weighted - weighted.mean(1, keepdim=True)
