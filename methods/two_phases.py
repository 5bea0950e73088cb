"""The optimiser of the pretrainings: AdamW, and two phases that each warm up and then follow half a cosine."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn


def adamw_in_two_phases(
    model: nn.Module,
    learning_rate: float,
    weight_decay: float,
    warmup_steps: int,
    first: tuple[int, int],
    total: int,
) -> dict[str, Any]:
    """What ``configure_optimizers`` returns.

    Args:
        model: its matrices are decayed, its vectors are not.
        learning_rate: peak of both phases.
        weight_decay: of AdamW.
        warmup_steps: steps of each phase's linear warm-up.
        first: steps of the first phase, and the length of the cosine that it follows.
        total: steps of both.
    """
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    others = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=learning_rate, betas=(0.9, 0.98))

    def schedule(step: int) -> float:
        start, end = (0, first[1]) if step < first[0] else (first[0], total)
        progress = min(1.0, (step - start) / max(1, end - start))
        return min(1.0, (step - start + 1) / warmup_steps) * 0.5 * (1 + math.cos(math.pi * progress))

    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}
