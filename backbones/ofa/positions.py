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


def resize_rows(rows: Tensor, side: int, height: int, width: int) -> Tensor:
    """Learnt rows of a square grid (side^2, d) -> (h w, d), bilinearly."""
    grid = rows.T.reshape(1, -1, side, side)
    return F.interpolate(grid, (height, width), mode="bilinear", align_corners=False)[0].flatten(1).T


def text_bias(table: nn.Module, length: int, half: int, longest: int) -> Tensor:
    """(H, T, T)."""
    buckets = text_buckets(length, half, longest)
    bias: Tensor = table(buckets.to(next(table.parameters()).device))
    return bias.permute(2, 0, 1)


def map_bias(table: nn.Module, height: int, width: int, grid: int) -> Tensor:
    """(H, 1 + L, 1 + L) between the start token and the cells of a map, resized where the grid is another.

    The start token has three buckets behind the cells': for all that it sees, for all that see it, and for itself.
    """
    sees, seen, itself = _by_head(table)[:, -3:].unbind(1)
    bias = sees.new_empty(len(sees), 1 + height * width, 1 + height * width)
    grid_bias(table, grid, grid, height, width, out=bias[:, 1:, 1:])
    bias[:, :1, 1:], bias[:, 1:, :1], bias[:, 0, 0] = sees[:, None, None], seen[:, None, None], itself
    return bias


def grid_bias(table: nn.Module, grid: int, side: int, height: int, width: int, out: Tensor | None = None) -> Tensor:
    """(H, L, L) of a square of ``grid`` cells a side, out of a table for grids of ``side``, resized to (height, width).

    It is written into ``out`` if that is given. A smaller grid is resized, too, as in IFSeg's code; OFA itself looks it up
    in the table.

    The table is itself a picture of offsets, in which a cell (y, x) that looks at (y', x') finds its bias at
    (y - y' + side - 1, x - x' + side - 1): what one cell sees is a window of it, turned by half a turn. Windows have a quick
    gradient, which a look-up of L^2 buckets has not. Rows and columns are resized by themselves, columns while there are few
    of them: bilinear resizing of all that each cell sees, and then of the cells, is the same.
    """
    span = 2 * side - 1
    used = slice(side - grid, side + grid - 1)
    offsets = _by_head(table)[:, : span**2].unflatten(1, (span, span))[:, used, used]
    # with a gradient, a copy per row would be a chain of as many steps to go back
    if grid in (height, width) and not (torch.is_grad_enabled() and offsets.requires_grad):
        bias = offsets.new_empty(len(offsets), height * width, height * width) if out is None else out
        by_row = bias.unflatten(2, (height, width)).unflatten(1, (height, width))
        if grid == height:
            _copy_windows(by_row, offsets)
        else:
            _copy_windows(by_row.permute(0, 2, 1, 4, 3), offsets.transpose(1, 2))
        return bias
    across = _windows(offsets, grid, width)  # (H, 2 grid - 1, x, x')
    both = _windows(across.permute(0, 2, 3, 1), grid, height)  # (H, x, x', y, y')
    bias = both.permute(0, 3, 1, 4, 2).flip(3, 4).flatten(3, 4).flatten(1, 2)
    return bias if out is None else out.copy_(bias)


def _copy_windows(to: Tensor, offsets: Tensor) -> None:
    """Writes the biases of a grid (grid, w) into ``to`` (H, y, x, y', x') out of (H, 2 grid - 1, 2 grid - 1) offsets.

    What all cells of a row see is one slice of the offsets, once these are turned: no pass over ``to`` but the copy.
    """
    grid, width = to.shape[1:3]
    turned = _windows(offsets, grid, width).flip(1, 3).transpose(1, 2).contiguous()  # (H, x, 2 grid - 1, x')
    for y in range(grid):
        to[:, y] = turned[:, :, grid - 1 - y : 2 * grid - 1 - y]


def _windows(offsets: Tensor, grid: int, length: int) -> Tensor:
    """Offsets (..., 2 grid - 1) -> pairs (..., grid, grid), what is looked at in reversed order, resized to ``length`` each."""
    pairs = offsets.unfold(-1, grid, 1)
    if length == grid:
        return pairs
    resized = F.interpolate(pairs.flatten(1, -3), (length, length), mode="bilinear", align_corners=False)
    return resized.unflatten(1, pairs.shape[1:-2])


def absolute_bias(queries: nn.Linear, keys: nn.Linear, at: Tensor, of: Tensor, heads: int) -> Tensor:
    """(H, P, S) of position rows ``at`` (P, d) looking at ``of`` (S, d)."""
    q, k = (linear(rows).unflatten(-1, (heads, -1)).transpose(0, 1) for linear, rows in ((queries, at), (keys, of)))
    bias: Tensor = (q * (2 * q.shape[-1]) ** -0.5) @ k.transpose(1, 2)
    return bias


def _by_head(table: nn.Module) -> Tensor:
    """(H, buckets)."""
    weight: Tensor = next(table.parameters())
    return weight.T
