"""The square that is cut out of a training picture."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor
from torchvision.transforms import v2

from common.randomness import drawing_from

Crop = Literal["centre", "random", "none"]


def cut(picture: Tensor, crop: str, size: int, seed: list[int]) -> Tensor:
    """(3, H, W) uint8 -> (3, size, size) uint8, or unchanged without a crop; resized bicubically with antialiasing."""
    if crop == "none":
        return picture
    bicubic: dict[str, Any] = {"interpolation": v2.InterpolationMode.BICUBIC, "antialias": True}
    if crop == "centre":
        return v2.Compose([v2.Resize(size, **bicubic), v2.CenterCrop(size)])(picture)
    with drawing_from(hash(tuple(seed))):  # of integers: the same in every process
        return v2.Compose([v2.RandomResizedCrop(size, scale=(0.25, 1.0), **bicubic), v2.RandomHorizontalFlip()])(picture)


def middle_square(picture: Tensor) -> Tensor:
    """(3, H, W) -> (3, S, S), S the short side."""
    return v2.CenterCrop(min(picture.shape[1:]))(picture)
