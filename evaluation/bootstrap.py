"""Intervals and paired differences of mIoU, from a bootstrap over pictures.

Pictures are drawn with replacement and the dataset mIoU of each draw is computed from their summed areas. Two methods
are compared on the same draws, so that what is hard about a picture cancels out.
"""

from __future__ import annotations

import torch
from torch import Tensor

from evaluation.metrics import iou_of

DRAWS = 2000


def resampled_miou(areas: Tensor, draws: int = DRAWS, seed: int = 0) -> Tensor:
    """mIoU (draws,) float64 of resampled datasets, from per-picture areas (N, 3, K)."""
    pictures, _, classes = areas.shape
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(pictures, (draws, pictures), generator=generator)
    times = torch.zeros(draws, pictures, dtype=torch.float64).scatter_add_(
        1, drawn, torch.ones(1, dtype=torch.float64).expand(draws, pictures)
    )
    return iou_of((times @ areas.flatten(1).double()).view(draws, 3, classes)).nanmean(-1)


def interval(areas: Tensor) -> tuple[float, float]:
    """95 % percentile interval of mIoU, from per-picture areas (N, 3, K)."""
    return interval_of(resampled_miou(areas))


def interval_of(draws: Tensor) -> tuple[float, float]:
    """The same from what :func:`resampled_miou` has drawn."""
    low, high = torch.quantile(draws, torch.tensor([0.025, 0.975], dtype=draws.dtype)).tolist()
    return low, high


def paired_p_value(draws_a: Tensor, draws_b: Tensor) -> float:
    """Two-sided bootstrap p-value of "A and B have the same mIoU", from the sign of the paired differences.

    Args:
        draws_a: :func:`resampled_miou` of A.
        draws_b: of B, on the same pictures and with the same seed.
    """
    difference = draws_a - draws_b
    below, above = (difference <= 0).double().mean().item(), (difference >= 0).double().mean().item()
    return min(1.0, 2 * min(below, above))
