"""The picture of a mask: which value and which colour a class has, and an object's number."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from common.batch import IGNORED
from common.drawing import label_image
from common.errors import UserError
from evaluation.vocabulary import Vocabulary
from reporting.exports.records import AnnotatedPicture, Annotations


class MaskClass(NamedTuple):
    """A class as mask files know it."""

    name: str
    colour: tuple[int, ...]


NOTHING = MaskClass("ignored", (224, 224, 192))  # VOC's, of the value 255


def mask_classes(vocabulary: Vocabulary) -> list[MaskClass]:
    """By value: the background, also where none was asked for, then the classes in order, in the overlays' colours.

    Raises:
        UserError: more classes than values.
    """
    classes = [MaskClass(name, tuple(rgb)) for name, rgb in zip(vocabulary.names, vocabulary.palette.tolist(), strict=True)]
    at = vocabulary.background
    background = MaskClass("background", (0, 0, 0)) if at is None else classes.pop(at)
    if len(classes) >= IGNORED:
        raise UserError(f"{len(classes)} classes beside the background; an export holds at most {IGNORED - 1}.")
    return [background, *classes]


def class_values(annotations: Annotations, picture: AnnotatedPicture, nothing: int = IGNORED) -> NDArray[np.uint8]:
    """(H, W) the classes' values, and ``nothing`` where a picture is not annotated."""
    values = mask_values(annotations.vocabulary)
    return picture.painted([values[region.category] for region in picture.regions], nothing)


def mask_values(vocabulary: Vocabulary) -> list[int]:
    """The value of each train id."""
    at = vocabulary.background
    objects = [k for k in range(vocabulary.num_classes) if k != at]
    places = {k: place for place, k in enumerate(objects, 1)}
    return [places.get(k, 0) for k in range(vocabulary.num_classes)]


def object_values(annotations: Annotations, picture: AnnotatedPicture, nothing: int = IGNORED) -> NDArray[np.uint8]:
    """(H, W) the objects' numbers from 1, the largest first; 0 in the background.

    There are 254. What is smaller still is left out of this mask, though not of that of the classes.
    """
    numbers = iter(range(1, IGNORED))
    at = annotations.vocabulary.background
    values = [0 if region.category == at else next(numbers, nothing) for region in picture.regions]
    return picture.painted(values, nothing)


def voc_masks(annotations: Annotations, picture: AnnotatedPicture, nothing: int = IGNORED) -> Iterator[tuple[str, Image.Image]]:
    """VOC's folders and indexed pictures: of the classes and, where regions are instances, of the objects."""
    classes = np.array([of.colour for of in mask_classes(annotations.vocabulary)], np.uint8)
    yield "SegmentationClass", indexed(class_values(annotations, picture, nothing), classes)
    if annotations.instances:  # readers know an object's number by VOC's own colours
        numbers = Vocabulary("numbers", tuple(map(str, range(IGNORED))), background=0, colours="voc").palette
        yield "SegmentationObject", indexed(object_values(annotations, picture, nothing), numbers)


def indexed(values: NDArray[np.uint8], colours: NDArray[np.uint8]) -> Image.Image:
    """The picture of a mask (H, W) in colours (values, 3), with VOC's own for 255."""
    palette = np.full((256, 3), 255, np.uint8)
    palette[: len(colours)] = colours
    palette[IGNORED] = NOTHING.colour
    return label_image(values, palette)
