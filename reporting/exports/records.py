"""The one record that all formats are written from: a picture and the regions found in it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from heapq import merge
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from evaluation.vocabulary import Vocabulary


@dataclass(frozen=True)
class Region:
    """Some pixels of one class.

    Attributes:
        category: train id.
        counts: the pixels, in COCO's compressed run lengths.
        area: how many there are.
        box: x, y, width, height.
        score: mean probability of the class; None of a method without probabilities.
    """

    category: int
    counts: str
    area: int
    box: tuple[int, int, int, int]
    score: float | None

    @staticmethod
    def of(mask: NDArray[np.bool_], category: int, score: float | None) -> Region:
        """The region of a mask (H, W)."""
        code = coco_mask.encode(np.asfortranarray(mask, np.uint8))
        x, y, width, height = (int(value) for value in coco_mask.toBbox(code))
        return Region(category, code["counts"].decode(), int(coco_mask.area(code)), (x, y, width, height), score)


@dataclass(frozen=True)
class AnnotatedPicture:
    """A picture's regions, which do not overlap; what lies in none is not annotated.

    Attributes:
        index: its place among all pictures.
        name: its file, from the folder of all pictures.
        size: (H, W) as it is looked at, turned as the camera says.
        regions: the largest first.
    """

    index: int
    name: str
    size: tuple[int, int]
    regions: tuple[Region, ...]

    @property
    def stem(self) -> str:
        """The name without its suffix, with ``/`` between folders."""
        return Path(self.name).with_suffix("").as_posix()

    def mask(self, region: Region) -> NDArray[np.bool_]:
        """(H, W) of a region."""
        return coco_mask.decode({"size": list(self.size), "counts": region.counts}).astype(bool)

    def painted(self, values: list[int], rest: int) -> NDArray[np.uint8]:
        """(H, W) with a value in each region's pixels, and ``rest`` elsewhere."""
        canvas = np.full(self.size, rest, np.uint8)
        for region, value in zip(self.regions, values, strict=True):
            canvas[self.mask(region)] = value
        return canvas

    def to_line(self) -> str:
        regions = [[region.category, region.counts, region.area, region.box, region.score] for region in self.regions]
        return json.dumps([self.index, self.name, self.size, regions])

    @staticmethod
    def from_line(line: str) -> AnnotatedPicture:
        index, name, size, regions = json.loads(line)
        listed = (Region(category, counts, area, tuple(box), score) for category, counts, area, box, score in regions)
        return AnnotatedPicture(index, name, tuple(size), tuple(listed))


@dataclass(frozen=True)
class Annotations:
    """All pictures of a run, read from disk one at a time, as often as they are gone through.

    Attributes:
        files: one per process, a picture a line, in the order of their places.
        root: folder that the pictures' names start from.
        vocabulary: what was asked.
        instances: whether a region is one connected thing, and not all pixels of a class.
    """

    files: tuple[Path, ...]
    root: Path
    vocabulary: Vocabulary
    instances: bool

    def __iter__(self) -> Iterator[AnnotatedPicture]:
        return merge(*(_pictures(file) for file in self.files), key=lambda picture: picture.index)

    def objects(self, picture: AnnotatedPicture) -> list[Region]:
        """The regions that are not background."""
        return [region for region in picture.regions if region.category != self.vocabulary.background]


def _pictures(file: Path) -> Iterator[AnnotatedPicture]:
    with file.open(encoding="utf-8") as lines:
        for line in lines:
            yield AnnotatedPicture.from_line(line)
