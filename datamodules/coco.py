"""COCO 2017 in its original files: pictures, and labels as stuffthingmaps, instances or panoptic maps.

All three are read as values of the stuffthingmaps (COCO category id - 1, 255 unlabelled), which the vocabularies map.
Numbers of different label sources are not comparable; the published ones are on the stuffthingmaps.
"""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.errors import UserError, known
from common.files import read_bytes
from common.images import decode_ids
from common.records import Contents, content_of
from datamodules.labelled import FilePattern, Labels, MaskFiles, OriginalFiles, Published
from datamodules.reading.archives import find_files
from datamodules.reading.files import Files
from evaluation.vocabulary import Vocabulary

UNLABELLED = 255
LABELS_OF = {  # label source -> the label spaces that it can tell apart
    "stuffthingmaps": ("coco_object", "coco_stuff171", "coco_stuff27", "coco_unseen15"),
    "instances": ("coco_object",),
    "panoptic": ("coco_object", "coco_stuff27"),
}


class COCO(OriginalFiles):
    """COCO-Object, COCO-Stuff 171 and 27, and IFSeg's 15 unseen classes.

    Args:
        root: folder with ``val2017`` (or ``images/val2017``, or ``val2017.zip``) and the labels.
        vocabulary: ``coco_object``, ``coco_stuff171``, ``coco_stuff27`` or ``coco_unseen15``.
        split: ``val`` or ``train``.
        labels: ``stuffthingmaps``; or, for COCO-Object, ``instances`` or ``panoptic``; COCO-Stuff 27 also ``panoptic``.
        listing: a text file of picture ids, such as STEGO's ``Coco164kFull_Stuff_Coarse_7.txt``, which the published
            COCO-Stuff 27 numbers use; None for all pictures of the split.
        options: as of :class:`DataModule`.
    """

    label_spaces = LABELS_OF["stuffthingmaps"]
    published = Published(
        {"val": 5000, "train": 118287},
        {
            "val2017.zip": ("http://images.cocodataset.org/zips/val2017.zip", "442b8da7639aecaf257c1dceb8ba8c80"),
            "stuffthingmaps_trainval2017.zip": (
                "http://calvin.inf.ed.ac.uk/wp-content/uploads/data/cocostuffdataset/stuffthingmaps_trainval2017.zip",
                "",
            ),
            "annotations_trainval2017.zip": (
                "http://images.cocodataset.org/annotations/annotations_trainval2017.zip",
                "f4bbac642086de4f52a3fdda2de5fa2c",
            ),
            "panoptic_annotations_trainval2017.zip": (
                "http://images.cocodataset.org/annotations/panoptic_annotations_trainval2017.zip",
                "",
            ),
        },
    )

    def __init__(
        self,
        root: str,
        vocabulary: str = "coco_object",
        split: str = "val",
        labels: str = "stuffthingmaps",
        listing: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__(root, vocabulary, split, **options)
        self.labels, self.listing = known("COCO label source", labels, LABELS_OF), listing
        if vocabulary not in LABELS_OF[labels]:
            able = [source for source, spaces in LABELS_OF.items() if vocabulary in spaces]
            raise UserError(f"{labels} labels cannot tell the classes of '{vocabulary}' apart; use {' or '.join(able)}.")

    def describe(self) -> str:
        return f"{super().describe()}, {self.labels}{f', {self.listing}' if self.listing else ''}"

    @property
    def year(self) -> str:
        return f"{known('split of COCO 2017', self.split, ('val', 'train'))}2017"

    def picture_files(self) -> FilePattern:
        year = self.year
        places = [f"images/{year}", year, f"{year}.zip:{year}"]
        return FilePattern(find_files(self.root, places, "", self.address(f"{year}.zip")), "{}.jpg")

    def label_files(self) -> Labels:
        readers = {"stuffthingmaps": self._stuffthingmaps, "instances": self._instances, "panoptic": self._panoptic}
        return readers[self.labels](self.year)

    def listed(self, pictures: FilePattern, labels: Labels) -> tuple[list[str], str]:
        if self.listing:
            return read_bytes(self.listing).decode().split(), self.listing
        names = [name for name in labels.known() if name.isdigit()]  # mmsegmentation leaves ID_labelTrainIds.png beside
        return sorted(names), labels.path("*")

    def address(self, archive: str) -> str:
        return self.published.archives.get(archive, (f"http://images.cocodataset.org/zips/{archive}", ""))[0]

    def _stuffthingmaps(self, year: str) -> Labels:
        archive = "stuffthingmaps_trainval2017.zip"
        folders = [f"stuffthingmaps/{year}", f"annotations/{year}", f"stuffthingmaps_trainval2017/{year}"]
        return MaskFiles(find_files(self.root, [*folders, f"{archive}:{year}"], "", self.address(archive)), "{}.png")

    def _instances(self, year: str) -> Labels:
        return InstanceLabels(*self._json(f"instances_{year}.json", "annotations_trainval2017.zip"))

    def _panoptic(self, year: str) -> Labels:
        archive, name = "panoptic_annotations_trainval2017.zip", f"panoptic_{year}"
        parsed, path, digest = self._json(f"{name}.json", archive)
        places = [f"annotations/{name}", name, f"annotations/{name}.zip:{name}", f"{archive}:annotations/{name}.zip:{name}"]
        return PanopticLabels(parsed, path, digest, find_files(self.root, places, "", self.address(archive)))

    def _json(self, name: str, archive: str) -> tuple[dict[str, Any], str, Contents]:
        for place in ("annotations", ".", f"{archive}:annotations"):
            with contextlib.suppress(UserError):
                files = find_files(self.root, [place], "", "")
                if name in files.names():
                    data = files.read(name)
                    return json.loads(data), files.path(name), content_of(data)
        raise UserError(f"no annotations/{name} and no {archive} in '{self.root}'. Published at {self.address(archive)}")


class InstanceLabels:
    """Labels drawn from ``instances_*.json``: crowds first, then large objects before small ones.

    The order is INFERRED: where objects overlap, the JSON does not say which is in front.

    Args:
        parsed: the JSON.
        path: its file, for messages.
        digest: (1, 16) of the file.
    """

    def __init__(self, parsed: dict[str, Any], path: str, digest: Contents) -> None:
        from pycocotools import coco

        self.file, self.digest, self.coco = path, digest, coco.COCO()
        with contextlib.redirect_stdout(io.StringIO()), _well_formed(path):
            self.coco.dataset = parsed
            self.coco.createIndex()
            self.sizes = {_name(i): (i["height"], i["width"]) for i in parsed["images"]}

    def content(self, names: list[str]) -> Contents:
        return self.digest

    def known(self) -> set[str]:
        return set(self.sizes)

    def path(self, name: str) -> str:
        return f"{self.file}:{name}"

    def read(self, name: str) -> NDArray[Any]:
        mask = np.full(self.sizes[name], UNLABELLED, np.uint8)
        annotations = self.coco.imgToAnns[int(name)]
        for annotation in sorted(annotations, key=lambda a: (-a["iscrowd"], -a["area"])):
            mask[self.coco.annToMask(annotation) > 0] = annotation["category_id"] - 1
        return mask


class PanopticLabels:
    """Labels of ``panoptic_*.json`` and its PNGs.

    The panoptic challenge merged many stuff classes, ``tree-merged``; such a segment gets the value of the class it is
    named after, which is right for COCO-Object (all stuff is background) and for the 27 coarse classes.

    Args:
        parsed: the JSON.
        path: its file, for messages.
        digest: (1, 16) of the file.
        files: the PNGs.
    """

    def __init__(self, parsed: dict[str, Any], path: str, digest: Contents, files: Files) -> None:
        self.digest, self.files = digest, FilePattern(files, "{}.png")
        with _well_formed(path):
            self.value = panoptic_values(parsed["categories"])
            self.segments = {
                Path(a["file_name"]).stem: {s["id"]: s["category_id"] for s in a["segments_info"]}
                for a in parsed["annotations"]
            }

    def content(self, names: list[str]) -> Contents:
        return np.concatenate([self.digest, self.files.content(names)])

    def known(self) -> set[str]:
        return set(self.segments)

    def path(self, name: str) -> str:
        return self.files.path(name)

    def read(self, name: str) -> NDArray[Any]:
        ids, where = np.unique(decode_ids(self.files.bytes(name), self.path(name)), return_inverse=True)
        category_of = self.segments[name]
        if unknown := sorted(set(ids.tolist()) - {0, *category_of}):
            raise UserError(f"panoptic map '{self.path(name)}': segment {unknown[0]} is not listed in its JSON.")
        values = [UNLABELLED if segment == 0 else self.value[category_of[segment]] for segment in ids.tolist()]
        return np.array(values, np.uint8)[where]


def panoptic_values(categories: Iterable[dict[str, Any]]) -> dict[int, int]:
    """Panoptic category id -> value of the stuffthingmaps."""
    stuff = Vocabulary.load("coco_stuff171")
    assert stuff.label_ids is not None
    value_of = {stuff.names[train]: value for value, train in stuff.label_ids.items() if train != stuff.ignore_index}

    def value(category: dict[str, Any]) -> int:
        plain = category["name"].removesuffix("-merged")
        if plain == category["name"]:
            return category["id"] - 1
        return next(value_of[name] for name in (plain, f"{plain}-other") if name in value_of)

    return {category["id"]: value(category) for category in categories}


def _name(entry: dict[str, Any]) -> str:
    return Path(entry["file_name"]).stem


@contextlib.contextmanager
def _well_formed(path: str) -> Any:
    try:
        yield
    except (KeyError, TypeError, StopIteration) as error:
        raise UserError(f"'{path}' is not COCO's own JSON: {error!r} is missing. Download it again.") from error
