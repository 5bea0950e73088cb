"""ADE20K scene parsing (ADEChallengeData2016), from its folder or its zip."""

from __future__ import annotations

from typing import Any

from common.errors import known
from datamodules.labelled import FilePattern, Labels, MaskFiles, OriginalFiles, Published
from datamodules.reading.archives import find_files
from datamodules.reading.files import Files


class ADE(OriginalFiles):
    """ADE150: the 150 classes of the scene parsing challenge; label 0 is ignored and class = label - 1.

    Args:
        root: folder that holds ``ADEChallengeData2016`` or its zip, or is one of them.
        vocabulary: ``ade150``.
        split: ``val`` or ``train``.
        options: as of :class:`DataModule`.
    """

    label_spaces = ("ade150",)
    published = Published(
        {"val": 2000, "train": 20210},
        {
            "ADEChallengeData2016.zip": (
                "http://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip",
                "7328b3957e407ddae1d3cbf487f149ef",
            )
        },
    )

    def __init__(self, root: str, vocabulary: str = "ade150", split: str = "val", **options: Any) -> None:
        super().__init__(root, vocabulary, split, **options)

    def picture_files(self) -> FilePattern:
        return FilePattern(self._part("images"), "{}.jpg")

    def label_files(self) -> MaskFiles:
        return MaskFiles(self._part("annotations"), "{}.png")

    def listed(self, pictures: FilePattern, labels: Labels) -> tuple[list[str], str]:
        return sorted(pictures.known()), pictures.path("*")

    def _part(self, part: str) -> Files:
        folder = f"{part}/{'validation' if known('split of ADE20K', self.split, ('val', 'train')) == 'val' else 'training'}"
        top = "ADEChallengeData2016"
        return find_files(self.root, [f"{top}/{folder}", folder, f"{top}.zip:{top}/{folder}"], "", self.published.addresses)
