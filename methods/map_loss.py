"""Cross-entropy of coarse logits against a fine map, without holding the fine logits.

The plain way upsamples (B, K, 32, 32) logits to 512 x 512 and keeps them, their log-softmax and its gradient: 180 MB each
for one map of 171 classes. Here a strip of rows at a time is upsampled (bilinear upsampling is one matrix per axis), and its
share of loss and gradient taken at once. All in float32, whatever the run's precision. IFSeg's maps name a class everywhere;
FreeSeg's leave pixels out, and compare only the classes that a picture says something about.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from common.batch import IGNORED

STRIP = 2**20  # fine logits held at a time


class Summed(NamedTuple):
    """``loss`` over the ``pixels`` that count; the number is no part of the graph."""

    loss: Tensor
    pixels: int


class _MapCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, target: Tensor, active: Tensor | None, limit: float) -> tuple[Tensor, Tensor]:
        total, pixels = logits.new_zeros(()), torch.zeros((), dtype=torch.int64, device=logits.device)
        gradient = torch.zeros_like(logits)
        with torch.autocast(logits.device.type, enabled=False):
            up, across = (
                upsampling(*sides).to(logits.device) for sides in zip(logits.shape[2:], target.shape[1:], strict=True)
            )
            for i, (one, wanted) in enumerate(zip(logits, target, strict=True)):
                if active is None:
                    loss, count, gradient[i] = _loss_and_gradient(one, wanted, up, across, limit)
                else:
                    classes = active[i].nonzero()[:, 0]
                    loss, count, part = _loss_and_gradient(one[classes], position_among(classes, wanted), up, across, limit)
                    gradient[i, classes] = part
                total += loss
                pixels += count
        ctx.save_for_backward(gradient)
        ctx.mark_non_differentiable(pixels)
        return total, pixels

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradients[0] * gradient, None, None, None


def map_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Mean cross-entropy of logits (B, K, h, w) float32, upsampled bilinearly, against class ids (B, H, W).

    Equal to ``cross_entropy(interpolate(logits, (H, W), mode="bilinear"), target)`` up to rounding.
    """
    return summed_cross_entropy(logits, target).loss / target.numel()


def summed_cross_entropy(logits: Tensor, target: Tensor, active: Tensor | None = None, limit: float = math.inf) -> Summed:
    """The sum over pixels, of which some need not count.

    Args:
        logits: (B, K, h, w) float32, upsampled bilinearly.
        target: (B, H, W) class ids; ``IGNORED``, or a class that is not active, where a pixel does not count.
        active: (B, K) bool, the classes that a picture's pixels are told apart among; None for all.
        limit: pixels with a larger loss, in nats, do not count.
    """
    loss, pixels = _MapCrossEntropy.apply(logits, target.long(), active, limit)
    return Summed(loss, int(pixels))


def upsampling(coarse: int, fine: int) -> Tensor:
    """(fine, coarse) weights of linear upsampling along one axis."""
    return F.interpolate(torch.eye(coarse)[None], fine, mode="linear", align_corners=False)[0].T.contiguous()


def position_among(classes: Tensor, target: Tensor) -> Tensor:
    """Class ids as positions among some classes (A,); ``IGNORED`` for the others."""
    position = torch.full((IGNORED + 1,), IGNORED, device=target.device)
    position[classes] = torch.arange(len(classes), device=target.device)
    return position[target]


def _loss_and_gradient(
    logits: Tensor, target: Tensor, up: Tensor, across: Tensor, limit: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Summed loss of (K, h, w), the number of pixels that count, and the loss's gradient."""
    wide = logits @ across.T  # (K, h, W)
    gradient, total = torch.zeros_like(wide), logits.new_zeros(())
    pixels = torch.zeros((), dtype=torch.int64, device=logits.device)
    rows_at_once = max(1, STRIP // max(1, wide.shape[0] * wide.shape[2]))
    for rows in torch.arange(len(up), device=up.device).split(rows_at_once):
        top, bottom = int(rows[0]), int(rows[-1]) + 1
        wanted = target[None, top:bottom]
        counts = wanted != IGNORED
        if not len(logits) or not counts.any():
            continue
        wanted = wanted.masked_fill(~counts, 0)
        used = up[top:bottom].any(0).nonzero()
        first, last = int(used[0]), int(used[-1]) + 1  # the few coarse rows that this strip lies between
        vertical = up[top:bottom, first:last]
        fine = vertical @ wide[:, first:last]  # (K, rows, W)
        normaliser = fine.logsumexp(0, keepdim=True)
        loss = normaliser - fine.gather(0, wanted)
        counts &= loss <= limit
        total += (loss * counts).sum()
        pixels += counts.sum()
        excess = fine.sub_(normaliser).exp_().scatter_add_(0, wanted, -torch.ones_like(normaliser))
        if not counts.all():
            excess *= counts
        gradient[:, first:last] += vertical.T @ excess
    return total, pixels, gradient @ across
