"""PASCAL VOC: indexed masks beside the pictures, as segmentation networks are trained on them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import ClassVar

from PIL import Image

from common.errors import UserError
from common.images import is_upright_jpeg, read_image
from evaluation.vocabulary import Vocabulary
from reporting.exports.format import Format, beside
from reporting.exports.mask_files import NOTHING, mask_classes, voc_masks
from reporting.exports.records import Annotations

JPEG_QUALITY = 95


class WithLabelMap(Format):
    """A format whose classes and pictures stand in text files, a line each."""

    by_stem: ClassVar[bool] = True

    def check(self, vocabulary: Vocabulary, pictures: list[str]) -> None:
        super().check(vocabulary, pictures)
        check_texts(vocabulary, pictures)


class Voc(WithLabelMap):
    """Pictures, indexed masks, a list of them and a label map (PASCAL VOC: datumaro, mmsegmentation, torchvision)."""

    def write(self, annotations: Annotations, folder: Path) -> None:
        stems, whole = [], True
        for picture in annotations:
            stems.append(picture.stem)
            put_picture(annotations.root / picture.name, folder / "JPEGImages" / f"{picture.stem}.jpg")
            for kind, image in voc_masks(annotations, picture):
                image.save(beside(folder / kind / f"{picture.stem}.png"))
            whole = whole and sum(region.area for region in picture.regions) == picture.size[0] * picture.size[1]
        beside(folder / "ImageSets" / "Segmentation" / "train.txt").write_bytes(lines(stems))
        (folder / "labelmap.txt").write_bytes(label_map(annotations.vocabulary, whole))


def check_texts(vocabulary: Vocabulary, pictures: list[str]) -> None:
    """Whether the classes and the pictures fit into the text files.

    Raises:
        UserError: one of them does not.
    """
    label_map(vocabulary)
    if broken := next((name for name in pictures if len(name.splitlines()) > 1), None):
        raise UserError(f"picture {broken!r}: VOC's and CVAT's lists cannot hold a line's end. Rename it.")


def label_map(vocabulary: Vocabulary, whole: bool = True) -> bytes:
    """labelmap.txt as CVAT and datumaro write it: name, colour, parts and actions, of which there are none.

    Args:
        vocabulary: what was asked.
        whole: every pixel is annotated; otherwise 255 has a name, too, as datumaro takes no colour without one.

    Raises:
        UserError: a class that it cannot hold.
    """
    classes = mask_classes(vocabulary)
    for of in classes:
        if ":" in of.name or len(of.name.splitlines()) > 1 or of.name.startswith("#"):
            raise UserError(
                f"class {of.name!r}: labelmap.txt of VOC and CVAT cannot hold ':', a line's end or a leading '#'. Name the "
                "class otherwise, or leave out these two."
            )
    names = [of.name for of in [*classes, NOTHING]]
    if repeated := next((name for name in names if names.count(name) > 1), None):
        raise UserError(f"class {repeated!r} means something else in labelmap.txt of VOC and CVAT. Name the class otherwise.")
    named = classes if whole else [*classes, NOTHING]
    return lines(["# label:color_rgb:parts:actions", *(f"{of.name}:{','.join(map(str, of.colour))}::" for of in named)])


def lines(texts: list[str]) -> bytes:
    """UTF-8; the name of a file that is none keeps its bytes."""
    return "".join(f"{text}\n" for text in texts).encode("utf-8", "surrogateescape")


def put_picture(source: Path, target: Path) -> None:
    """An upright JPEG is linked, or copied to another disk; any other picture is written as one.

    Readers of VOC look for ``.jpg``, and do not turn pictures as their cameras say.
    """
    beside(target)
    if not is_upright_jpeg(source):
        Image.fromarray(read_image(source).permute(1, 2, 0).numpy()).save(target, quality=JPEG_QUALITY)
        return
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
