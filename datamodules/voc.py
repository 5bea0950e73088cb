"""PASCAL VOC 2012 segmentation, from the original VOCdevkit or its tar."""

from __future__ import annotations

from typing import Any

from common.errors import UserError
from datamodules.labelled import FilePattern, Labels, MaskFiles, OriginalFiles, Published
from datamodules.reading.archives import find_files
from datamodules.reading.files import Files


class VOC(OriginalFiles):
    """VOC21 (with background) or VOC20, on the official val list.

    Args:
        root: folder that holds ``VOCdevkit/VOC2012``, or ``VOCtrainval_11-May-2012.tar``, or is one of them.
        vocabulary: ``voc21`` or ``voc20``.
        split: list in ``ImageSets/Segmentation``.
        options: as of :class:`DataModule`.
    """

    label_spaces = ("voc21", "voc20")
    published = Published(
        {"val": 1449, "train": 1464},
        {
            "VOCtrainval_11-May-2012.tar": (
                "http://host.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar",
                "6cd6e144f989b92b3379bac3b3de84fd",
            )
        },
    )

    def __init__(self, root: str, vocabulary: str = "voc21", split: str = "val", **options: Any) -> None:
        super().__init__(root, vocabulary, split, **options)

    def picture_files(self) -> FilePattern:
        return FilePattern(self._devkit(), "JPEGImages/{}.jpg")

    def label_files(self) -> MaskFiles:
        return MaskFiles(self._devkit(), "SegmentationClass/{}.png")

    def listed(self, pictures: FilePattern, labels: Labels) -> tuple[list[str], str]:
        return read_list(pictures.files, "ImageSets/Segmentation", self.split)

    def _devkit(self) -> Files:
        places = ["VOCdevkit/VOC2012", "VOC2012", ".", "VOCtrainval_11-May-2012.tar:VOCdevkit/VOC2012"]
        return find_files(self.root, places, "ImageSets/Segmentation", self.published.addresses)


def read_list(files: Files, folder: str, split: str) -> tuple[list[str], str]:
    """The names in ``folder/split.txt`` (Main lists have a second column, which is dropped) and the list's path.

    Raises:
        UserError: no such list.
    """
    lists = [name.removesuffix(".txt") for name in files.names(folder) if name.endswith(".txt")]
    if split not in lists:
        there = f" There: {', '.join(sorted(lists))}." if lists else ""
        raise UserError(f"no split '{split}' in '{files.path(folder)}'.{there}")
    lines = files.read(f"{folder}/{split}.txt").decode().splitlines()
    return [line.split()[0] for line in lines if line.strip()], files.path(f"{folder}/{split}.txt")
