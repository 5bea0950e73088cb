"""The same pictures by every method and each method's worst, masked where nothing is counted, and said in words."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from common.batch import IGNORED
from common.drawing import blend, side_by_side
from evaluation.metrics import iou_of
from reporting.album import Album
from reporting.cells import percent
from reporting.class_colours import Colours, css, palette
from reporting.columns import Column
from reporting.worst import worst_indices

NAMED = 4  # classes that an alternative text lists
TRUTH = "ground truth"
WORST_QUALITY = 75  # of JPEG: they are many

Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class Shown:
    """A picture of the page, what is seen on it, and the line below; without a source, the line alone."""

    source: str | None
    alt: str
    caption: str


@dataclass(frozen=True)
class Gallery:
    """A column's pictures: rows of the same picture, each method's worst, and the (name, colour) that occur."""

    rows: list[list[Shown]]
    worst: dict[str, list[Shown]]
    legend: list[tuple[str, str]]
    ignored: bool


class Painter:
    """Draws one column's pictures in a page's colours, and remembers which classes it has drawn."""

    def __init__(self, column: Column, colours: Colours, album: Album) -> None:
        self.column, self.album = column, album
        self.palette = palette(column.names, colours)
        self.drawn: set[int] = set()

    def gallery(self, pictures: int) -> Gallery:
        """Of the first ``pictures``, so far as they were kept."""
        rows = [row for index in range(pictures) if (row := self._row(index))]
        worst = {method: self._worst(method) for method in self.column.shown}
        names = self.column.names
        legend = [(names[k], css(self.palette[k])) for k in sorted(self.drawn) if k < len(names)]
        return Gallery(rows, worst, legend, IGNORED in self.drawn)

    def _row(self, index: int) -> list[Shown]:
        kept = {method: result.panels for method, result in self.column.shown.items() if f"{index}/picture" in result.panels}
        if not kept:
            return []
        first = next(iter(kept.values()))
        picture, mask = _pixels(first[f"{index}/picture"]), first[f"{index}/mask"].numpy()
        row = [Shown(self.album.jpeg(picture), f"picture {index} of {self.column.benchmark}", "picture")]
        row.append(self._map(TRUTH, index, picture, mask, TRUTH))
        for method, panels in kept.items():
            labels = masked(panels[f"{index}/prediction"].numpy(), mask)
            row.append(self._map(method, index, picture, labels, f"{method} {percent(self._miou(method, index))}"))
        return row

    def _map(self, who: str, index: int, picture: Bytes, labels: Bytes, caption: str) -> Shown:
        alt = f"{who}, picture {index}: {in_words(labels, self.column.names)}"
        return Shown(self.album.jpeg(self._paint(picture, labels)), alt, caption)

    def _worst(self, method: str) -> list[Shown]:
        result, found = self.column.shown[method], []
        for index, miou in worst_indices(result.areas):
            caption, parts = f"picture {index}: {percent(miou)}", result.worst
            if f"{index}/picture" not in parts:
                found.append(Shown(None, "", caption))
                continue
            picture, mask = _pixels(parts[f"{index}/picture"]), parts[f"{index}/mask"].numpy()
            labels = masked(parts[f"{index}/prediction"].numpy(), mask)
            parts_shown = [picture, self._paint(picture, labels), self._paint(picture, mask)]
            said = [in_words(shown, self.column.names) for shown in (labels, mask)]
            alt = f"picture {index}; {method}: {said[0]}; {TRUTH}: {said[1]}"
            found.append(Shown(self.album.jpeg(side_by_side(parts_shown), WORST_QUALITY), alt, caption))
        return found

    def _paint(self, picture: Bytes, labels: Bytes) -> Bytes:
        self.drawn |= set(np.unique(labels).tolist())
        return np.asarray(blend(picture, labels, self.palette))

    def _miou(self, method: str, index: int) -> float | None:
        areas = self.column.shown[method].areas
        return iou_of(areas[index]).nanmean().item() if index < len(areas) else None


def masked(labels: Bytes, mask: Bytes) -> Bytes:
    """The label map without what is not counted; as it is where the mask is of another picture."""
    return np.where(mask == IGNORED, IGNORED, labels).astype(np.uint8) if mask.shape == labels.shape else labels


def in_words(labels: Bytes, names: list[str]) -> str:
    """The largest classes of a label map and their shares of what is counted, such as ``cat 40 %, dog 12 %``."""
    counts = np.bincount(labels.ravel(), minlength=IGNORED + 1)[: len(names)]
    if not counts.sum():
        return "nothing counted"
    largest = [k for k in np.argsort(-counts, kind="stable") if counts[k]]
    said = [f"{names[k]} {100 * counts[k] / counts.sum():.0f} %" for k in largest[:NAMED]]
    return ", ".join(said) + (f" and {len(largest) - NAMED} more" if len(largest) > NAMED else "")


def _pixels(picture: Tensor) -> Bytes:
    pixels: Bytes = picture.permute(1, 2, 0).numpy()
    return pixels
