"""Reach: between which values a class's map lies over many pictures, by which the maps of several classes become comparable.

A tower answers some words more faintly than others. The tiny CLIP's Surgery map has 1.4 where it is sure of a "green plain
square" and .3 where it is sure of a "yellow striped triangle", less than other maps have by chance: the faint class is found
nowhere. ITSM mends the scale picture by picture, and thereby loses whether a class is there at all.
Here the two values that ITSM takes from one picture are taken from many unlabelled ones:

    M = (S - low) / (high - low)

where ``low`` is the median of the class's values over all patches, and ``high`` the value at which their highest hundredth
begins. That a hundredth of all patches shows the class is what this supposes; it sees no label. None of it is in the paper.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

import torch
from rich.progress import Progress
from torch import Tensor

from common.distributed import gathered, rank_and_world
from common.errors import UserError
from common.kept import Kept

MEASURED = 256  # pictures
PATCHES = 256  # of each, evenly spread, so that many classes of large pictures fit into memory
HIGHEST = 0.01
T = TypeVar("T")


@dataclass(frozen=True)
class Reach:
    """``low`` and ``high`` (K,) of the maps of K classes."""

    low: Tensor
    high: Tensor

    @classmethod
    def over(cls, similarities: Iterable[Tensor]) -> Reach:
        """Of similarities (B, K, h, w), whose sizes may differ."""
        values_KN = torch.cat([spread(some).transpose(0, 1).flatten(1) for some in similarities], 1)
        count = values_KN.shape[1]
        median, high = (values_KN.kthvalue(max(1, round(part * count)), 1).values for part in (0.5, 1 - HIGHEST))
        return cls(median, high)

    def scaled(self, similarity_BKhw: Tensor) -> Tensor:
        """Maps that are comparable between classes: about 0 where a class is not, about 1 where it is seen best."""
        low, high = (value.to(similarity_BKhw)[:, None, None] for value in (self.low, self.high))
        return (similarity_BKhw - low) / (high - low).clamp_min(1e-6)


def over_collection(
    batches: Iterable[Tensor],
    look: Callable[[Tensor], list[T]],
    summary: Callable[[list[T]], dict[str, Tensor]],
    what: str,
    key: str | None = None,
) -> dict[str, Tensor]:
    """What is measured on some images, which the processes share; found again under the key.

    Args:
        batches: images (B, 3, H, W), the same in every process.
        look: what is seen of some images, without their pixels.
        summary: of what is seen of all.
        what: for the progress bar.
        key: of all that this depends on; None where nothing is kept.

    Raises:
        UserError: no image.
    """
    store = Kept("reach")
    entry = None if key is None else store.read_by_all(key)
    if entry is not None:
        return entry.tensors
    rank, world = rank_and_world()
    seen: list[T] = []
    with Progress(disable=rank != 0, transient=True) as progress:
        task = progress.add_task(what, total=MEASURED)
        for number, images in enumerate(batches):
            if number % world == rank:
                seen += look(images)
            progress.advance(task, len(images))
    seen = gathered(seen)
    if not seen:
        raise UserError("no picture can be read, and mining with span collection measures its maps on some.")
    found = summary(seen)
    if key is not None:
        store.write(key, found)
    return found


def spread(similarity: Tensor) -> Tensor:
    """(B, K, n) of at most ``PATCHES`` patches, on the CPU."""
    patches = similarity.float().flatten(2)
    return patches[:, :, :: max(1, -(-patches.shape[2] // PATCHES))].cpu()
