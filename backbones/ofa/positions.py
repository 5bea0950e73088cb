"""OFA's positions: they are never added to a token; they only bias attention, absolutely (once) and relatively (per layer).

Shapes: H heads, L = h w cells, T pieces of text. A table of relative positions has a row per bucket and a column per head.
"""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@lru_cache(8)
@torch.inference_mode(False)  # what is kept must serve training too
def text_buckets(length: int, half: int = 256, longest: int = 1024) -> Tensor:
    """(length, length) bucket of each pair of pieces: exact up to ``half / 2`` apart, logarithmic beyond."""
    position = torch.arange(length)
    offset = position[:, None] - position[None, :]
    exact = half // 2
    far = torch.log(offset.abs().clamp(min=1) / exact) / torch.log(torch.tensor((longest - 1) / exact)) * (exact - 1)
    bucket = torch.where(offset.abs() <= exact, offset, offset.sign() * (far.ceil().long() + exact))
    return bucket + half - 1


@lru_cache(8)
@torch.inference_mode(False)
def grid_buckets(height: int, width: int, side: int, with_start: bool = False) -> Tensor:
    """(h w, h w) bucket of each pair of cells, (dy + side - 1)(2 side - 1) + dx + side - 1.

    With a start token before the cells, (1 + h w, 1 + h w): its row, its column and their corner have buckets of their own.
    """
    y = torch.arange(height).repeat_interleave(width)
    x = torch.arange(width).repeat(height)
    span = 2 * side - 1
    bucket = (y[:, None] - y[None, :] + side - 1) * span + x[:, None] - x[None, :] + side - 1
    if with_start:
        bucket = F.pad(bucket, (1, 0, 1, 0))
        bucket[0], bucket[:, 0], bucket[0, 0] = span**2, span**2 + 1, span**2 + 2
    return bucket


def resize_rows(rows: Tensor, side: int, height: int, width: int) -> Tensor:
    """Learnt rows of a square grid (side^2, d) -> (h w, d), bilinearly."""
    grid = rows.T.reshape(1, -1, side, side)
    return F.interpolate(grid, (height, width), mode="bilinear", align_corners=False)[0].flatten(1).T


def resize_pairs(bias: Tensor, side: int, height: int, width: int) -> Tensor:
    """(H, side^2, side^2) -> (H, h w, h w): the keys' grid is resized, then the queries'."""
    for _ in range(2):
        heads, queries, _ = bias.shape
        grids = bias.reshape(heads * queries, 1, side, side)
        grids = F.interpolate(grids, (height, width), mode="bilinear", align_corners=False)
        bias = grids.reshape(heads, queries, height * width).transpose(1, 2)
    return bias


def text_bias(table: nn.Module, length: int, half: int, longest: int) -> Tensor:
    """(H, T, T)."""
    return _look_up(table, text_buckets(length, half, longest))


def image_bias(table: nn.Module, height: int, width: int, side: int, grid: int) -> Tensor:
    """(H, L, L) between picture cells: those of a square of ``grid`` cells a side, resized where the grid is another.

    Also where it is smaller, as IFSeg's code does; OFA itself looks such a grid up in the table.
    """
    bias = _look_up(table, grid_buckets(grid, grid, side))
    return bias if (height, width) == (grid, grid) else resize_pairs(bias, grid, height, width)


def map_bias(table: nn.Module, height: int, width: int, grid: int) -> Tensor:
    """(H, 1 + L, 1 + L) between the start token and the cells of a map, resized where the grid is another."""
    bias = _look_up(table, grid_buckets(grid, grid, grid, with_start=True))
    if (height, width) == (grid, grid):
        return bias
    cells = resize_pairs(bias[:, 1:, 1:], grid, height, width)
    row = resize_rows(bias[:, 0, 1:].T, grid, height, width).T[:, None]
    column = resize_rows(bias[:, 1:, 0].T, grid, height, width).T[:, :, None]
    return torch.cat([torch.cat([bias[:, :1, :1], row], 2), torch.cat([column, cells], 2)], 1)


def absolute_bias(queries: nn.Linear, keys: nn.Linear, at: Tensor, of: Tensor, heads: int) -> Tensor:
    """(H, P, S) of position rows ``at`` (P, d) looking at ``of`` (S, d)."""
    q, k = (linear(rows).unflatten(-1, (heads, -1)).transpose(0, 1) for linear, rows in ((queries, at), (keys, of)))
    bias: Tensor = (q * (2 * q.shape[-1]) ** -0.5) @ k.transpose(1, 2)
    return bias


def _look_up(table: nn.Module, buckets: Tensor) -> Tensor:
    return table(buckets.to(next(table.parameters()).device)).permute(2, 0, 1)
