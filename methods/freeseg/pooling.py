"""From a picture's tokens to one vector, or from its similarities to one score: the poolings of ICLIP and FreeSeg.

Max pooling listens to the most confident token, which in CLIP is background; ICLIP allows only tokens of a foreground mask;
FreeSeg's smoothed min listens to the *least* confident ones, so that raising a match raises every token of the object. How it
is smoothed stands in the paper's body, which was not available (INFERRED): ``smooth_min`` weighs the values by softmin,
``log_sum_exp`` is -t log mean exp(-v / t). Both are the minimum for t -> 0 and the mean for t -> infinity.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

Pooling = Literal["max", "masked_max", "min", "smooth_min", "log_sum_exp", "mean"]


def pool(values: Tensor, how: Pooling, temperature: float = 0.1, mask: Tensor | None = None) -> Tensor:
    """Pools over the tokens.

    Args:
        values: (B, N, C) features, or similarities to C texts.
        how: one of ``Pooling``.
        temperature: of the smoothed minima, in standard deviations of the values over the tokens (no gradient).
        mask: (B, N) bool, the tokens that ``masked_max`` may take; where none is, it takes any.

    Returns:
        (B, C).
    """
    if how == "mean":
        return values.mean(1)
    if how == "min":
        return values.amin(1)
    if how == "max" or (mask is None and how == "masked_max"):
        return values.amax(1)
    if how == "masked_max":
        assert mask is not None
        allowed = mask | ~mask.any(1, keepdim=True)
        return values.masked_fill(~allowed[..., None], -torch.inf).amax(1)
    t = temperature * values.detach().std(1, keepdim=True).clamp_min(1e-6)
    if how == "smooth_min":
        return ((-values / t).softmax(1) * values).sum(1)
    return -t[:, 0] * (torch.logsumexp(-values / t, 1) - math.log(values.shape[1]))


def attended(attention: Tensor, mass: float = 0.6) -> Tensor:
    """The foreground mask (B, N) of ICLIP: the fewest patches that hold ``mass`` of the class token's attention (B, N)."""
    share = attention / attention.sum(1, keepdim=True)
    order = share.argsort(1, descending=True)
    before = share.gather(1, order).cumsum(1) - share.gather(1, order)
    return torch.zeros_like(share, dtype=torch.bool).scatter_(1, order, before < mass)
