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
from dataclasses import asdict, dataclass
from itertools import islice

import torch
from rich.progress import track
from torch import Tensor

from common.distributed import gathered, rank_and_world
from common.errors import UserError
from common.kept import Kept

MEASURED = 256  # pictures
PATCHES = 256  # of each, evenly spread, so that many classes of large pictures fit into memory
HIGHEST = 0.01


@dataclass(frozen=True)
class Reach:
    """``low`` and ``high`` (K,) of the maps of K classes."""

    low: Tensor
    high: Tensor

    @classmethod
    def over(cls, similarities: Iterable[Tensor]) -> Reach:
        """Of similarities (B, K, h, w), whose sizes may differ."""
        values_KN = torch.cat([_spread(some).transpose(0, 1).flatten(1) for some in similarities], 1)
        count = values_KN.shape[1]
        median, high = (values_KN.kthvalue(max(1, round(part * count)), 1).values for part in (0.5, 1 - HIGHEST))
        return cls(median, high)

    def scaled(self, similarity_BKhw: Tensor) -> Tensor:
        """Maps that are comparable between classes: about 0 where a class is not, about 1 where it is seen best."""
        low, high = (value.to(similarity_BKhw)[:, None, None] for value in (self.low, self.high))
        return (similarity_BKhw - low) / (high - low).clamp_min(1e-6)


def reach_over(images: Iterable[Tensor], similarity: Callable[[Tensor], Tensor], key: str | None = None) -> Reach:
    """The reach on some images, which the processes share; half a minute of a CPU, found again under the key.

    Args:
        images: (1, 3, H, W), the same in every process.
        similarity: an image -> its map (1, K, h, w).
        key: of all that the maps depend on; None where nothing is kept.

    Raises:
        UserError: no image.
    """
    store = Kept("reach")
    entry = None if key is None else store.read(key)
    found = None if entry is None else Reach(**entry.tensors)
    everyone = gathered([found])
    if None not in everyone:
        return everyone[0]
    rank, world = rank_and_world()
    some = track(
        islice(images, rank, None, world), "reach of the maps", -(-MEASURED // world), disable=rank != 0, transient=True
    )
    maps = gathered([_spread(similarity(image)).cpu() for image in some])
    if not maps:
        raise UserError("no picture can be read, and mining with span collection measures its maps on some.")
    found = Reach.over(maps)
    if key is not None:
        store.write(key, asdict(found))
    return found


def _spread(similarity: Tensor) -> Tensor:
    """(B, K, n) of at most ``PATCHES`` patches."""
    patches = similarity.float().flatten(2)
    return patches[:, :, :: -(-patches.shape[2] // PATCHES)]
