"""Where mIoU hides what a reader sees: along the borders of things, and in small ones.

*Boundary IoU* (Cheng et al., CVPR 2021) compares only the pixels within ``REACH`` of a map's own borders. A pixel near the edge
of the picture is near a border, as in the published code. What is not counted borders on everything, and is not counted.

*Small* is a class in a picture of which it covers at most ``SMALL``; its IoU is over those pictures alone.

Shapes: K classes, N pictures.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

REACH = 0.02  # of the picture's diagonal, as published
SMALL = 0.02  # of the picture's counted pixels


def near_border(labels: Tensor) -> Tensor:
    """Pixels (H, W) with another label, or none, within a square of ``REACH`` around them."""
    reach = max(1, round(REACH * (labels.shape[0] ** 2 + labels.shape[1] ** 2) ** 0.5))
    near, side = torch.ones_like(labels, dtype=torch.bool), 2 * reach + 1
    if min(labels.shape) >= side:  # else every square leaves the picture
        changes = _counts(labels[:, 1:] != labels[:, :-1], side, side - 1) + _counts(labels[1:] != labels[:-1], side - 1, side)
        near[reach:-reach, reach:-reach] = changes > 0
    return near


def _counts(marks: Tensor, height: int, width: int) -> Tensor:
    """How many marks (H, W) lie in each window of that size; by running sums, whatever the size."""
    until = F.pad(marks.cumsum(0, dtype=torch.int32).cumsum(1, dtype=torch.int32), (1, 0, 1, 0))
    return until[height:, width:] - until[:-height, width:] - until[height:, :-width] + until[:-height, :-width]


def boundary_areas(prediction: Tensor, target: Tensor, num_classes: int, ignore_index: int) -> Tensor:
    """(3, K) int64 of intersection, predicted and target pixels near a border of their own map (H, W)."""
    counted = target != ignore_index
    in_prediction, in_target = near_border(prediction) & counted, near_border(target) & counted
    both = in_prediction & in_target & (prediction == target)
    chosen = target[both], prediction[in_prediction], target[in_target]
    return torch.stack([torch.bincount(labels.long(), minlength=num_classes) for labels in chosen])


def small_areas(areas: Tensor) -> Tensor:
    """The areas (N, 3, K) of classes that are small in their picture; all others are 0, as if they were nowhere."""
    target = areas[:, 2]
    small = (target > 0) & (target <= SMALL * target.sum(1, keepdim=True))
    return areas * small[:, None]
