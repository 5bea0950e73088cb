"""What the trained methods' optimisers share: which weights are decayed, and warm-ups that end in half a cosine."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from common.values import Within


def adamw(model: nn.Module, learning_rate: float, weight_decay: float, betas: tuple[float, float]) -> torch.optim.AdamW:
    """AdamW on what is trained; matrices are decayed, vectors (biases and norms) are not.

    Raises:
        UserError: a negative learning rate or decay.
    """
    Within(0).check("learning_rate", learning_rate, float)
    Within(0).check("weight_decay", weight_decay, float)
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=learning_rate, betas=betas)


def with_step_schedule(optimizer: torch.optim.Optimizer, factor: Callable[[int], float]) -> dict[str, Any]:
    """What ``configure_optimizers`` returns: the optimiser, its learning rate times ``factor(step)``."""
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def warmup_cosine(step: int, warmup: int, total: int) -> float:
    """Linear up to 1 over ``warmup`` steps, times half a cosine from 1 to 0 over ``total``."""
    progress = min(1.0, step / max(1, total))
    return min(1.0, (step + 1) / max(1, warmup)) * 0.5 * (1 + math.cos(math.pi * progress))


def adamw_in_two_phases(
    model: nn.Module, learning_rate: float, weight_decay: float, warmup_steps: int, first: int, total: int
) -> dict[str, Any]:
    """The pretrainings' optimiser: two phases that each warm up and then follow half a cosine.

    Args:
        model: what is trained.
        learning_rate: peak of both phases.
        weight_decay: of AdamW.
        warmup_steps: steps of each phase's linear warm-up.
        first: steps of the first phase.
        total: steps of both.
    """

    def factor(step: int) -> float:
        if step < first:
            return warmup_cosine(step, warmup_steps, first)
        return warmup_cosine(step - first, warmup_steps, total - first)

    return with_step_schedule(adamw(model, learning_rate, weight_decay, (0.9, 0.98)), factor)
