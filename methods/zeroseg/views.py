"""The views of a picture that a teacher describes: the cells of 1x1, 2x2, ... grids (ZeroSeg, section 3.2)."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2.functional import resize

from backbones.tower import DenseTower

AT_ONCE = 64  # views; of 512, a CPU spends half as much time again on fetching what does not fit its cache


def grid_boxes(height: int, width: int, grids: list[int]) -> list[tuple[int, int, int, int]]:
    """(top, left, bottom, right) of every cell, grid by grid in reading order; INFERRED: borders at round(r * height / s)."""
    boxes = []
    for s in grids:
        rows, columns = ([round(i * side / s) for i in range(s + 1)] for side in (height, width))
        boxes += [(rows[i], columns[j], rows[i + 1], columns[j + 1]) for i in range(s) for j in range(s)]
    return boxes


def view_count(grids: list[int]) -> int:
    return sum(s * s for s in grids)


@torch.no_grad()
def embed_views(clip: DenseTower, images: Tensor | list[Tensor], grids: list[int]) -> Tensor:
    """The teacher's image embeddings (B, n, C), not normalised, of all views.

    Args:
        clip: the teacher.
        images: square ones, (B, 3, S, S) or (3, S, S) of several sizes, in [0, 1].
        grids: sides of the grids.
    """
    side = clip.native_side
    if isinstance(images, Tensor):
        views = cut_views(images, grids, side)
    else:
        views = torch.cat([cut_views(image[None], grids, side) for image in images], 1)
    embedded = torch.cat([clip.embed_image(part, unit=False) for part in views.flatten(0, 1).split(AT_ONCE)])
    return embedded.unflatten(0, views.shape[:2]).transpose(0, 1)


def cut_views(images: Tensor, grids: list[int], side: int) -> Tensor:
    """Views (n, B, 3, side, side) of images (B, 3, S, S)."""
    cells = [
        resize(images[:, :, top:bottom, left:right], [side, side], InterpolationMode.BICUBIC, antialias=True)
        for top, left, bottom, right in grid_boxes(images.shape[2], images.shape[3], grids)
    ]
    return torch.stack(cells).clamp(0, 1)
