"""From a label map to regions: all pixels of a class or its connected parts, without what is small or unsure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from common.errors import UserError
from common.values import Natural, Share
from evaluation.label_map import LabelMap
from evaluation.vocabulary import Vocabulary
from reporting.exports.records import AnnotatedPicture, Region

NEIGHBOURS = np.ones((3, 3), bool)  # pixels that touch in a corner are connected


@dataclass(frozen=True)
class RegionRules:
    """What a region is.

    Attributes:
        instances: one connected part of a class; otherwise all its pixels.
        min_area: regions of fewer pixels are left out, but for the background.
        unsure: pixels of a lower probability are in no region.
    """

    instances: bool = False
    min_area: Natural = 0
    unsure: Share = 0.0


def regions_of(found: LabelMap, vocabulary: Vocabulary, rules: RegionRules) -> tuple[Region, ...]:
    """The regions of a label map, the largest first.

    Raises:
        UserError: unsure pixels are to be left out, and the method gives no probabilities.
    """
    labels = found.labels.cpu().numpy()
    score = None if found.score is None else found.score.float().cpu().numpy()
    if rules.unsure and score is None:
        raise UserError("--unsure: this method gives no probabilities. Leave the option out.")
    if score is not None and rules.unsure:
        labels = np.where(score < rules.unsure, vocabulary.ignore_index, labels)
    regions = []
    for category in np.flatnonzero(np.bincount(labels.ravel(), minlength=256)[: vocabulary.num_classes]).tolist():
        is_background = category == vocabulary.background
        parts = _parts(labels == category, rules) if not is_background else [labels == category]
        regions += [Region.of(part, category, _mean(score, part)) for part in parts]
    return tuple(sorted(regions, key=lambda region: -region.area))


def annotated_picture(index: int, name: str, found: LabelMap, vocabulary: Vocabulary, rules: RegionRules) -> AnnotatedPicture:
    """What the formats are written from, of one picture; see :func:`regions_of`."""
    height, width = found.labels.shape
    return AnnotatedPicture(index, name, (height, width), regions_of(found, vocabulary, rules))


def _parts(mask: NDArray[np.bool_], rules: RegionRules) -> Iterator[NDArray[np.bool_]]:
    """The parts of a class (H, W) that are large enough."""
    numbers = ndimage.label(mask, NEIGHBOURS)[0] if rules.instances else mask.astype(np.int32)
    areas = np.bincount(numbers.ravel())
    for number in range(1, len(areas)):
        if areas[number] >= rules.min_area:
            yield numbers == number


def _mean(score: NDArray[np.float32] | None, part: NDArray[np.bool_]) -> float | None:
    return None if score is None else round(float(score[part].mean()), 4)
