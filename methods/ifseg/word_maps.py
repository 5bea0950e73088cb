"""From random numbers to maps of words (IFSeg, section 3.2); the numbers are :class:`datamodules.WordMaps`'."""

from __future__ import annotations

import torch
from torch import Tensor


def draw_maps(batch: dict[str, Tensor], words: int, side: int) -> Tensor:
    """Maps (B, side, side) of word ids: each grid resized to a square by the nearest lower cell, floor(i in / side).

    Drawn at two sides, once as the encoder's input and once as the target, the borders of the same map need not coincide;
    the reference does the same.
    """
    at = torch.arange(side, device=batch["size"].device)
    rows, columns = (batch["size"][:, axis, None] * at // side for axis in (0, 1))
    picture = torch.arange(len(rows), device=rows.device)[:, None, None]
    return batch["numbers"][picture, rows[:, :, None], columns[:, None, :]] % words
