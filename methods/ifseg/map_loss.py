"""Cross-entropy of coarse logits against a fine map, without holding the fine logits.

The reference upsamples (B, Q, 32, 32) logits to 512 x 512 and keeps them, their log-softmax and its gradient: 180 MB each
for one map of 171 classes. Here a strip of rows at a time is upsampled (bilinear upsampling is one matrix per axis), and its
share of loss and gradient taken at once.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

STRIP = 2**20  # fine logits held at a time


class _MapCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, target: Tensor) -> Tensor:
        weights = upsampling(logits.shape[-1], target.shape[-1]).to(logits.device)
        total, gradient = logits.new_zeros(()), torch.empty_like(logits)
        for one, wanted, to_fill in zip(logits, target, gradient, strict=True):
            loss, to_fill[:] = _loss_and_gradient(one, wanted, weights)
            total += loss
        ctx.save_for_backward(gradient.div_(target.numel()))
        return total / target.numel()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (gradient,) = ctx.saved_tensors
        return gradients[0] * gradient, None


def map_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Mean cross-entropy of logits (B, Q, g, g) float32, upsampled bilinearly, against class ids (B, S, S).

    Equal to ``cross_entropy(interpolate(logits, (S, S), mode="bilinear"), target)`` up to rounding.
    """
    loss: Tensor = _MapCrossEntropy.apply(logits, target)
    return loss


def upsampling(coarse: int, fine: int) -> Tensor:
    """(fine, coarse) weights of linear upsampling along one axis."""
    return F.interpolate(torch.eye(coarse)[None], fine, mode="linear", align_corners=False)[0].T.contiguous()


def _loss_and_gradient(logits: Tensor, target: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Summed loss of (Q, g, g) and its gradient."""
    wide = logits @ weights.T  # (Q, g, S)
    gradient, total = torch.zeros_like(wide), logits.new_zeros(())
    rows_at_once = max(1, STRIP // (wide.shape[0] * wide.shape[2]))
    for rows in torch.arange(len(weights), device=weights.device).split(rows_at_once):
        top, bottom = int(rows[0]), int(rows[-1]) + 1
        used = weights[top:bottom].any(0).nonzero()
        first, last = int(used[0]), int(used[-1]) + 1  # the few coarse rows that this strip lies between
        vertical = weights[top:bottom, first:last]
        fine = vertical @ wide[:, first:last]  # (Q, rows, S)
        wanted = target[None, top:bottom]
        normaliser = fine.logsumexp(0, keepdim=True)
        total += (normaliser - fine.gather(0, wanted)).sum()
        excess = fine.sub_(normaliser).exp_().scatter_add_(0, wanted, -torch.ones_like(normaliser))
        gradient[:, first:last] += vertical.T @ excess
    return total, gradient @ weights
