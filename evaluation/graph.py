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
        onto_rows, onto_columns = _onto(self.rows, size[0]), _onto(self.columns, size[1])
        summed_qRS = onto_rows.T @ (windows.flatten(3).flatten(1, 2) @ onto_columns)
        return summed_qRS / (onto_rows.sum(0)[:, None] * onto_columns.sum(0))


@dataclass(frozen=True)
class GraphScores(WindowScores):
    """As there, with ``lines`` in the place of boxes; None for the whole picture."""

    lines: Lines | None = None

    # squeeze(0) and not [0]: what follows works in place, which in a graph would copy what [0] was taken from, by a scatter
    def merge(self, words: slice, size: tuple[int, int]) -> Tensor:
        chosen = self.scores[:, words].float()
        if self.direct:
            return upsample(chosen, size).squeeze(0)
        if self.lines is None:
            return upsample(upsample(chosen, self.size), size).squeeze(0)
        window = (self.lines.rows.shape[1], self.lines.columns.shape[1])
        return upsample(self.lines.overlay(upsample(chosen, window), self.size)[None], size).squeeze(0)


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


def _onto(lines: Tensor, length: int) -> Tensor:
    """(windows x pixels, length): 1 where a window's line is the picture's; a product adds faster than a scatter does there."""
    return (lines.flatten()[:, None] == torch.arange(length)).float()
