"""Mean score contrast (ICLIP, CLIP Surgery): whether similarity maps are brighter on their class than off it."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric


class MeanScoreContrast(Metric):
    """Mean over pictures and their classes of (mean of the map on the class) - (mean off it); negative: inverted.

    INFERRED from the name and the published signs. It uses masks, needs no threshold, and is a diagnostic beside mIoU.
    """

    full_state_update = False
    total: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, maps: Tensor, mask: Tensor) -> None:
        """Adds one picture: maps (K, H, W) in [0, 1] by train id, mask (H, W) of train ids or 255."""
        for k in mask[mask < len(maps)].unique().tolist():
            on = mask == k
            off = ~on & (mask < len(maps))
            if off.any():
                self.total += maps[k][on].double().mean() - maps[k][off].double().mean()
                self.count += 1

    def compute(self) -> Tensor:
        return self.total / self.count
