"""Windows: which crops of an image are scored, all of them in few large batches, and how their scores are merged.

Shapes: P images, N windows of one image, Q words asked, (h, w) a window's score grid, (R, S) the resized image.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, sym_max

from common.batch import Box
from common.sizes import side_lengths, whole
from evaluation.rules import Windows


@dataclass(frozen=True)
class WindowScores:
    """What a method said about one image.

    Attributes:
        scores: (N, Q, h, w), one row per box.
        boxes: the windows.
        image: (3, R, S) in [0, 1], the resized image that they lie in.
        direct: the scores of a window that is the whole image go from the grid to the original size at once.
    """

    scores: Tensor
    boxes: list[Box]
    image: Tensor
    direct: bool = False

    @property
    def size(self) -> tuple[int, int]:
        """(R, S)."""
        return self.image.shape[1], self.image.shape[2]

    def merge(self, words: slice, size: tuple[int, int]) -> Tensor:
        """Scores (q, H, W) of some words at the original size.

        Each window is upsampled to its own size, summed in place, divided by the visits, and the whole brought to ``size``.
        """
        chosen = self.scores[:, words].float()
        if self.direct:
            return upsample(chosen, size)[0]
        merged = self.overlay(chosen)
        return merged if self.size == size else upsample(merged[None], size)[0]

    def overlay(self, scores: Tensor) -> Tensor:
        """Scores (q, R, S) in the resized image, of those of its windows (N, q, h, w)."""
        top, left, bottom, right = self.boxes[0]
        return overlaid(upsample(scores, (bottom - top, right - left)), self.boxes, self.size)


def overlaid(windows: Sequence[Tensor] | Tensor, boxes: list[Box], size: tuple[int, int]) -> Tensor:
    """Mean (..., R, S) of windows (..., h, w), each as large as its box, where they overlap."""
    total = windows[0].new_zeros(*windows[0].shape[:-2], *size)
    visits = total.new_zeros(size)
    for window, (top, left, bottom, right) in zip(windows, boxes, strict=True):
        total[..., top:bottom, left:right] += window
        visits[top:bottom, left:right] += 1
    return total.div_(visits)


def resized_side_lengths(height: int, width: int, rules: Windows) -> tuple[int, int]:
    """The size at which an image is scored: short side as asked or its own, unless the long side would pass its limit."""
    sides = side_lengths(height, width)
    scale = torch.minimum((rules.short_side or sides.amin(0)) / sides.amin(0), rules.max_long_side / sides.amax(0))
    return whole((sides * scale + 0.5).floor())


def resize_image(image_3HW: Tensor, rules: Windows) -> Tensor:
    """Bilinear resize, without antialiasing (cv2's rule, as in the reference evaluators) unless the rules ask for it."""
    size = resized_side_lengths(image_3HW.shape[1], image_3HW.shape[2], rules)
    return F.interpolate(image_3HW[None], size, mode="bilinear", align_corners=False, antialias=rules.antialias)[0]


def window_boxes(height: int, width: int, rules: Windows) -> list[Box]:
    """Boxes in reading order; the last of a row or column is shifted back inside the image.

    A side shorter than the crop is covered whole, so all boxes of one image have one size.
    """
    if rules.crop is None or rules.stride is None:
        return [(0, 0, height, width)]
    crop_h, crop_w = min(rules.crop, height), min(rules.crop, width)
    tops, lefts = (window_starts(side, rules.crop, rules.stride) for side in (height, width))
    return [(top, left, top + crop_h, left + crop_w) for top in tops for left in lefts]


def window_starts(length: int, crop: int, stride: int) -> list[int]:
    """Where the windows along a side begin; the last one is shifted back inside."""
    return [min(i * stride, max(length - crop, 0)) for i in range(count_windows(length, crop, stride))]


def cut(image: Tensor, boxes: list[Box]) -> Tensor:
    """The windows (N, C, h, w) of an image or of scores (C, R, S), all of one size."""
    return torch.stack([image[:, top:bottom, left:right] for top, left, bottom, right in boxes])


def score_windows(score: Callable[[Tensor], Tensor], images: list[Tensor], rules: Windows, batch: int) -> list[WindowScores]:
    """Scores all windows of all images, ``batch`` windows at a time, windows of one size together.

    Args:
        score: (B, 3, H, W) in [0, 1] -> (B, Q, h, w).
        images: resized images (3, R, S) in [0, 1], of any sizes.
        rules: which windows.
        batch: bounds the memory; it does not change the result beyond rounding.
    """
    boxes = [window_boxes(image.shape[1], image.shape[2], rules) for image in images]
    by_size: dict[tuple[int, int], list[tuple[int, Box]]] = defaultdict(list)
    for i, image_boxes in enumerate(boxes):
        for box in image_boxes:
            by_size[box[2] - box[0], box[3] - box[1]].append((i, box))
    scored: list[list[Tensor]] = [[] for _ in images]
    for todo in by_size.values():
        for start in range(0, len(todo), batch):
            part = todo[start : start + batch]
            crops = torch.stack([images[i][:, t:b, left:r] for i, (t, left, b, r) in part])
            for (i, _), scores_Qhw in zip(part, score(crops), strict=True):
                scored[i].append(scores_Qhw)
    parts = zip(scored, boxes, images, strict=True)
    direct = is_direct(rules)
    return [WindowScores(torch.stack(of_image), image_boxes, image, direct) for of_image, image_boxes, image in parts]


def is_direct(rules: Windows) -> bool:
    """Whether scores go from the grid to the original size at once."""
    return rules.crop is None and rules.upsampling == "direct"


def count_windows(length: int, crop: int, stride: int) -> int:
    """Windows along a side."""
    return sym_max(length - crop + stride - 1, 0) // stride + 1


def upsample(scores: Tensor, size: tuple[int, int]) -> Tensor:
    """Scores (..., h, w) -> (..., H, W)."""
    return F.interpolate(scores, size, mode="bilinear", align_corners=False)
