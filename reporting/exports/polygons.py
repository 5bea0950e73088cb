"""Regions as polygons: outlines along the pixels' edges, holes reached through a slit, corners left out where nothing is lost.

Coordinates are those of COCO: pixel (x, y) is the square from (x, y) to (x + 1, y + 1).
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
from contourpy import FillType, contour_generator
from numpy.typing import NDArray

Ring = NDArray[np.float64]  # (N, 2) corners x, y; the last is joined to the first
Rasteriser = Callable[[Ring, tuple[int, int]], NDArray[np.bool_]]  # a ring and (H, W) to the pixels that a tool sees in it

LEAST_IOU = 0.98  # of a simplified polygon with the pixels it stands for
TOLERANCES = (1.0, 0.75, 0.5)  # in pixels, tried in turn; if none keeps the IoU, every corner stays


def polygons_of(mask: NDArray[np.bool_], rasterise: Rasteriser, inset: float = 0.0) -> list[Ring]:
    """One ring for each 4-connected part of a mask (H, W), without self-crossings but for the slits to its holes.

    Args:
        mask: the pixels.
        rasterise: how the tool that reads the polygon turns it into pixels; decides how far it is simplified.
        inset: how far the edges are drawn into the region, for tools that count every pixel that an edge touches.
    """
    return [_simplified([_inset(ring, inset) for ring in rings], rasterise) for rings in outlines(mask)]


def outlines(mask: NDArray[np.bool_]) -> list[list[Ring]]:
    """The exact outline and the holes' outlines of each 4-connected part of a mask (H, W).

    contourpy interpolates between samples. Every pixel has a sample in each of its four corners here, so that the two
    samples that a level lies between are in one place, and the level is nowhere but on the pixels' edges. Where two pixels
    touch in a corner, the mean of the four is 0.5, below the level: they are not joined.
    """
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    if not len(rows):
        return []
    top, left = rows[0], columns[0]
    padded = np.pad(mask[top : rows[-1] + 1, left : columns[-1] + 1], 1).astype(np.float64)
    y, x = ((np.arange(2 * length) + 1) // 2 + start - 1.0 for length, start in zip(padded.shape, (top, left), strict=True))
    samples = padded.repeat(2, axis=0).repeat(2, axis=1)
    parts: Any = contour_generator(x, y, samples, fill_type=FillType.OuterOffset).filled(0.6, 2.0)
    return [[_corners(points[a : b - 1]) for a, b in pairwise(rings)] for points, rings in zip(*parts, strict=True)]


def _corners(ring: Ring) -> Ring:
    """Without repeated points and points on a straight edge."""
    ring = ring[(ring != np.roll(ring, 1, axis=0)).any(axis=1)]
    to, come = np.roll(ring, -1, axis=0) - ring, ring - np.roll(ring, 1, axis=0)
    return ring[to[:, 0] * come[:, 1] != to[:, 1] * come[:, 0]]


def _inset(ring: Ring, by: float) -> Ring:
    """The ring with every edge moved to its left, which is where the region lies: contourpy turns holes the other way."""
    edge = np.sign(np.roll(ring, -1, axis=0) - ring)
    inward = np.stack([-edge[:, 1], edge[:, 0]], axis=1)
    return ring + by * (inward + np.roll(inward, 1, axis=0))


def _simplified(rings: list[Ring], rasterise: Rasteriser) -> Ring:
    """The ring with the fewest corners whose pixels are still those of the exact one."""
    exact = _joined(rings)
    origin = np.floor(exact.min(axis=0))
    width, height = (np.ceil(exact.max(axis=0)) - origin).astype(int).tolist()
    wanted = rasterise(exact - origin, (height, width))
    for tolerance in TOLERANCES:
        fewer = _joined([_without_small_corners(ring, tolerance) for ring in rings])
        found = rasterise(fewer - origin, (height, width))
        if (found & wanted).sum() >= LEAST_IOU * (found | wanted).sum():
            return fewer
    return exact


def _without_small_corners(ring: Ring, tolerance: float) -> Ring:
    """Douglas and Peucker's rule on both halves of the ring; one that would have no area left stays as it is."""
    far = int(np.square(ring - ring[0]).sum(axis=1).argmax())
    closed = np.concatenate([ring, ring[:1]])
    kept = {0, far, len(ring)}
    spans = [(0, far), (far, len(ring))]
    while spans:
        a, b = spans.pop()
        between = closed[a + 1 : b] - closed[a]
        chord = closed[b] - closed[a]
        length = np.hypot(*chord)
        if not len(between):
            continue
        distance = np.abs(between[:, 0] * chord[1] - between[:, 1] * chord[0]) / length
        if distance.max() > tolerance:
            middle = a + 1 + int(distance.argmax())
            kept.add(middle)
            spans += [(a, middle), (middle, b)]
    return closed[sorted(kept)[:-1]] if len(kept) > 3 else ring


def _joined(rings: list[Ring]) -> Ring:
    """One ring that walks to each hole and back: left from its leftmost corner to the nearest edge there is.

    Holes come from left to right, so that a hole in the way is part of the ring already.
    """
    ring, *holes = rings
    for hole in sorted(holes, key=lambda hole: hole[:, 0].min()):
        hole = np.roll(hole, -int(hole[:, 0].argmin()), axis=0)
        at, door = _nearest_edge(ring, hole[0])
        ring = np.concatenate([ring[: at + 1], door[None], hole, hole[:1], door[None], ring[at + 1 :]])
    return ring


def _nearest_edge(ring: Ring, point: NDArray[np.float64]) -> tuple[int, NDArray[np.float64]]:
    """The edge that is met first to the left of a point, by its first corner's index, and where it is met."""
    x, y = point
    start, end = ring, np.roll(ring, -1, axis=0)
    crossing = np.flatnonzero((start[:, 1] <= y) != (end[:, 1] <= y))
    share = (y - start[crossing, 1]) / (end[crossing, 1] - start[crossing, 1])
    met = start[crossing, 0] + share * (end[crossing, 0] - start[crossing, 0])
    if not (met <= x).any():  # a hole that simplifying has drawn out of its region
        nearest = int(np.square(ring - point).sum(axis=1).argmin())
        return nearest, ring[nearest]
    best = int(np.where(met <= x, met, -np.inf).argmax())
    return int(crossing[best]), np.array([met[best], y])
