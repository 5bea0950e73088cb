"""One picture of any size in a graph (:mod:`torch.export`), where sizes are symbols and no loop may depend on them.

The rules are those of :mod:`evaluation.windows`; windows are cut and overlaid by indices, whatever their number.
Shapes: T x L windows of (H, W), Q words, (h, w) a window's score grid, (R, S) the resized picture.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from evaluation.rules import Windows
from evaluation.windows import WindowScores, count_windows, upsample


@dataclass(frozen=True)
class Lines:
    """The windows of a picture: the pixel ``rows`` (T, H) of each row of windows, and the ``columns`` (L, W) of each column."""

    rows: Tensor
    columns: Tensor

    def cut(self, image_3RS: Tensor) -> Tensor:
        """(T L, 3, H, W), in reading order."""
        picked = image_3RS.index_select(1, self.rows.flatten()).index_select(2, self.columns.flatten())
        windows = picked.unflatten(2, self.columns.shape).unflatten(1, self.rows.shape)  # (3, T, H, L, W)
        return windows.permute(1, 3, 0, 2, 4).flatten(0, 1)

    def overlay(self, windows_NqHW: Tensor, size: tuple[int, int]) -> Tensor:
        """Means (q, R, S) of what the windows say of each pixel."""
        windows = windows_NqHW.unflatten(0, (self.rows.shape[0], self.columns.shape[0])).permute(2, 0, 3, 1, 4)
        summed = _summed(windows.flatten(3).flatten(1, 2), 2, self.columns, size[1])
        summed = _summed(summed, 1, self.rows, size[0])
        visits = [
            _summed(torch.ones_like(lines.flatten(), dtype=summed.dtype), 0, lines, length)
            for lines, length in ((self.rows, size[0]), (self.columns, size[1]))
        ]
        return summed / (visits[0][:, None] * visits[1])


@dataclass(frozen=True)
class GraphScores(WindowScores):
    """As there, with ``lines`` in the place of boxes; None for the whole picture."""

    lines: Lines | None = None

    def merge(self, words: slice, size: tuple[int, int]) -> Tensor:
        chosen = self.scores[:, words].float()
        if self.direct:
            return upsample(chosen, size)[0]
        if self.lines is None:
            return upsample(upsample(chosen, self.size), size)[0]
        window = (self.lines.rows.shape[1], self.lines.columns.shape[1])
        return upsample(self.lines.overlay(upsample(chosen, window), self.size)[None], size)[0]


def window_lines(height: int, width: int, rules: Windows) -> Lines | None:
    """The windows of :func:`evaluation.windows.window_boxes`; None for the whole picture."""
    if rules.crop is None or rules.stride is None:
        return None
    return Lines(_lines(height, rules.crop, rules.stride), _lines(width, rules.crop, rules.stride))


def least_side(rules: Windows) -> int:
    """Pixels of a resized picture's short side that a graph takes for granted: a window, or the side itself.

    That of a picture whose long side would pass its limit is shorter; see :func:`largest_ratio`.
    """
    return rules.crop or rules.short_side


def largest_ratio(rules: Windows) -> float:
    """Long side to short side of the longest picture whose short side is :func:`least_side` or more."""
    return rules.max_long_side / least_side(rules)


def _lines(length: int, crop: int, stride: int) -> Tensor:
    starts = (torch.arange(count_windows(length, crop, stride)) * stride).clamp(max=length - crop)
    return starts[:, None] + torch.arange(crop)


def _summed(values: Tensor, dim: int, lines: Tensor, length: int) -> Tensor:
    """Values summed over all that falls on a line, which ``dim`` is then as long as the picture has."""
    shape = [*values.shape]
    shape[dim] = length
    return values.new_zeros(shape).index_add(dim, lines.flatten(), values)
