"""ADE20K scene parsing (ADEChallengeData2016), from its folder or its zip."""

from __future__ import annotations

from typing import Any

from datamodules.files import find_files
from datamodules.labelled import FilePattern, LabelledPictures, MaskFiles, OriginalFiles, Published
from zerolabel_common import known


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

    def pictures(self) -> LabelledPictures:
        folder = {"val": "validation", "train": "training"}[known("split of ADE20K", self.split, ("val", "train"))]
        places = ["ADEChallengeData2016", ".", "ADEChallengeData2016.zip:ADEChallengeData2016"]
        files = find_files(self.root, places, f"images/{folder}", self.published.addresses)
        pictures = FilePattern(files, f"images/{folder}/{{}}.jpg")
        masks = MaskFiles(files, f"annotations/{folder}/{{}}.png")
        return LabelledPictures(sorted(pictures.known()), pictures, masks, self.vocabulary, files.path(f"images/{folder}"))
