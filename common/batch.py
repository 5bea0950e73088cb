"""What travels from datamodules to methods: raw images of any sizes, in lists; only benchmark batches hold masks."""

from __future__ import annotations

from typing import TypedDict

import torch
from torch import Tensor

IGNORED = 255  # the class id of a pixel that does not count
Box = tuple[int, int, int, int]  # top, left, bottom, right


class Item(TypedDict, total=False):
    """One picture: ``image`` (3, H, W) uint8 RGB; ``mask`` (H, W) uint8 train ids, benchmarks only."""

    image: Tensor
    mask: Tensor
    name: str
    index: int
    error: str  # in predict: why the picture could not be read; image is then missing
    time: int  # of a film's frame, in the film's ticks from its first one
    origin: tuple[int, int]  # of a tile: top and left of it in its picture,
    kept: Box  # the part of the picture that it is to be used for,
    valid: Tensor  # and which of its pixels (H, W) hold data


class Batch(TypedDict, total=False):
    """Items as lists, so that pictures of any sizes share a batch without padding.

    ``image`` is uint8 as it leaves the workers and float32 in [0, 1] as it reaches a method.
    """

    image: list[Tensor]
    mask: list[Tensor]
    name: list[str]
    index: list[int]
    error: list[str]
    time: list[int]
    origin: list[tuple[int, int]]
    kept: list[Box]
    valid: list[Tensor]


def to_unit(image: Tensor) -> Tensor:
    """uint8 -> float32 in [0, 1]; floats, and None for a picture that could not be read, stay."""
    return image.float().div_(255) if image is not None and image.dtype == torch.uint8 else image
