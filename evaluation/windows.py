"""Windows: which crops of a picture are looked at, all of them in few large batches, and how their scores are merged.

Shapes: P pictures, N windows of one picture, Q words asked, (h, w) a window's score grid, (R, S) the resized picture.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from evaluation.protocol import Protocol

Box = tuple[int, int, int, int]  # top, left, bottom, right


@dataclass(frozen=True)
class WindowScores:
    """What a method said about one picture: ``scores`` (N, Q, h, w), one row per box, on a picture of ``size``."""

    scores: Tensor
    boxes: list[Box]
    size: tuple[int, int]

    def merge(self, words: slice, out: tuple[int, int] | None = None) -> Tensor:
        """Scores (q, R, S) of some words: each window upsampled to its size, summed in place, divided by the visits.

        A single window that covers the picture goes straight to ``out`` if given.
        """
        chosen = self.scores[:, words].float()
        if len(self.boxes) == 1:
            return _upsample(chosen, out or self.size)[0]
        total = chosen.new_zeros(chosen.shape[1], *self.size)
        visits = chosen.new_zeros(self.size)
        top, left, bottom, right = self.boxes[0]
        upsampled = _upsample(chosen, (bottom - top, right - left))
        for window, (top, left, bottom, right) in zip(upsampled, self.boxes, strict=True):
            total[:, top:bottom, left:right] += window
            visits[top:bottom, left:right] += 1
        return total.div_(visits)


def resized_side_lengths(height: int, width: int, protocol: Protocol) -> tuple[int, int]:
    """The size at which a picture is looked at: short side as asked, unless the long side would pass its limit."""
    scale = min(protocol.short_side / min(height, width), protocol.max_long_side / max(height, width))
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def resize_image(picture_3HW: Tensor, protocol: Protocol) -> Tensor:
    """Bilinear resize without antialiasing (cv2's rule, as in the reference evaluators)."""
    size = resized_side_lengths(picture_3HW.shape[1], picture_3HW.shape[2], protocol)
    return F.interpolate(picture_3HW[None], size, mode="bilinear", align_corners=False)[0]


def window_boxes(height: int, width: int, protocol: Protocol) -> list[Box]:
    """Boxes in reading order; the last of a row or column is shifted back inside the picture.

    A side shorter than the crop is covered whole, so all boxes of one picture have one size.
    """
    if protocol.crop is None or protocol.stride is None:
        return [(0, 0, height, width)]
    crop_h, crop_w = min(protocol.crop, height), min(protocol.crop, width)
    tops = [min(i * protocol.stride, height - crop_h) for i in range(_count(height, protocol.crop, protocol.stride))]
    lefts = [min(i * protocol.stride, width - crop_w) for i in range(_count(width, protocol.crop, protocol.stride))]
    return [(top, left, top + crop_h, left + crop_w) for top in tops for left in lefts]


def score_windows(
    score: Callable[[Tensor], Tensor], pictures: list[Tensor], protocol: Protocol, batch: int
) -> list[WindowScores]:
    """Scores all windows of all pictures, ``batch`` windows at a time, windows of one size together.

    Args:
        score: (B, 3, H, W) in [0, 1] -> (B, Q, h, w).
        pictures: resized pictures (3, R, S) in [0, 1], of any sizes.
        protocol: the windows' rules.
        batch: bounds the memory; it does not change the result beyond rounding.
    """
    boxes = [window_boxes(picture.shape[1], picture.shape[2], protocol) for picture in pictures]
    by_size: dict[tuple[int, int], list[tuple[int, Box]]] = defaultdict(list)
    for i, picture_boxes in enumerate(boxes):
        for box in picture_boxes:
            by_size[box[2] - box[0], box[3] - box[1]].append((i, box))
    scored: list[list[Tensor]] = [[] for _ in pictures]
    for todo in by_size.values():
        for start in range(0, len(todo), batch):
            part = todo[start : start + batch]
            crops = torch.stack([pictures[i][:, t:b, left:r] for i, (t, left, b, r) in part])
            for (i, _), scores_Qhw in zip(part, score(crops), strict=True):
                scored[i].append(scores_Qhw)
    return [
        WindowScores(torch.stack(windows), picture_boxes, (picture.shape[1], picture.shape[2]))
        for windows, picture_boxes, picture in zip(scored, boxes, pictures, strict=True)
    ]


def _count(length: int, crop: int, stride: int) -> int:
    return max(length - crop + stride - 1, 0) // stride + 1


def _upsample(scores: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(scores, size, mode="bilinear", align_corners=False)
