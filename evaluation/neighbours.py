"""Smoothing among similar cells (IFSeg, section 3.4): no edges and no positions, only features."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def average_neighbours(probabilities: Tensor, features: Tensor, count: int, steps: int) -> Tensor:
    """Replaces each cell's probabilities, ``steps`` times, by the mean over its most similar cells, itself included.

    Args:
        probabilities: (B, Q, h, w).
        features: (B, C, h, w), compared by cosine.
        count: cells that are averaged (k).
        steps: repetitions.
    """
    unit = F.normalize(features.flatten(2), dim=1)
    similarity_BLL = unit.transpose(1, 2) @ unit
    nearest_BLk = similarity_BLL.topk(min(count, similarity_BLL.shape[-1])).indices
    picture = torch.arange(len(features), device=features.device)[:, None, None]
    smooth_BLQ = probabilities.flatten(2).transpose(1, 2)
    for _ in range(steps):
        smooth_BLQ = smooth_BLQ[picture, nearest_BLk].mean(2)
    return smooth_BLQ.transpose(1, 2).unflatten(2, probabilities.shape[2:])
