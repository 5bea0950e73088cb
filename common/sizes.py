"""Sizes computed with tensors: in a graph (:mod:`torch.export`) every size that rounding gives is then a symbol of its own.

A chain of roundings in symbols takes the tracer minutes; and 64-bit floats round in a file as they do in Python.
"""

from __future__ import annotations

import torch
from torch import Tensor


def side_lengths(height: int, width: int) -> Tensor:
    """(2,) float64."""
    return torch.stack([torch.full((), side, dtype=torch.float64) for side in (height, width)])


def whole(lengths: Tensor, least: int = 1) -> tuple[int, int]:
    """Height and width from lengths (2,) that are whole, none below ``least``."""
    rows, columns = lengths.clamp(min=least).long().tolist()
    torch._check(rows >= least)
    torch._check(columns >= least)
    return rows, columns
