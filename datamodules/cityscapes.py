"""Cityscapes with fine labels, from its folders or its zips."""

from __future__ import annotations

from typing import Any

from common.errors import known
from datamodules.labelled import FilePattern, Labels, MaskFiles, OriginalFiles, Published
from datamodules.reading.archives import find_files
from datamodules.reading.files import Files

PICTURES, LABELS = "leftImg8bit_trainvaltest.zip", "gtFine_trainvaltest.zip"
SITE = "https://www.cityscapes-dataset.com/file-handling/?packageID="


class Cityscapes(OriginalFiles):
    """The 19 evaluated classes; the other label ids are not counted. The test split has no public labels.

    Args:
        root: folder that holds ``leftImg8bit`` and ``gtFine``, or the zips they come in.
        vocabulary: ``cityscapes``.
        split: ``val`` or ``train``.
        options: as of :class:`DataModule`.
    """

    label_spaces = ("cityscapes",)
    published = Published(
        {"val": 500, "train": 2975},
        {
            PICTURES: (f"{SITE}3", "0a6e97e94b616a514066c9e2adb0c97f"),
            LABELS: (f"{SITE}1", "4237c19de34c8a376e9ba46b495d6f66"),
        },
    )

    def __init__(self, root: str, vocabulary: str = "cityscapes", split: str = "val", **options: Any) -> None:
        super().__init__(root, vocabulary, split, **options)

    def picture_files(self) -> OfCities:
        return OfCities(self._part("leftImg8bit", PICTURES), "{}_leftImg8bit.png")

    def label_files(self) -> LabelsOfCities:
        return LabelsOfCities(self._part("gtFine", LABELS), "{}_gtFine_labelIds.png")

    def listed(self, pictures: FilePattern, labels: Labels) -> tuple[list[str], str]:
        return sorted(pictures.known()), pictures.path("*")

    def _part(self, part: str, archive: str) -> Files:
        folder = f"{part}/{known('split of Cityscapes', self.split, ('val', 'train'))}"
        return find_files(self.root, [folder, f"{archive}:{folder}"], "", self.published.archives[archive][0])


class OfCities(FilePattern):
    """Files in a folder for each city; a picture's name is ``CITY/CITY_SEQUENCE_FRAME``."""

    def known(self) -> set[str]:
        end = self.file.removeprefix("{}")
        names = (f"{city}/{name}" for city in self.files.folders() for name in self.files.names(city))
        return {name.removesuffix(end) for name in names if name.endswith(end)}


class LabelsOfCities(OfCities, MaskFiles):
    """Label ids of the fine annotations."""
