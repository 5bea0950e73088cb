"""PASCAL Context: VOC 2010 pictures with labels in the original JSON, the original .mat files, or converted PNGs.

The three hold the same labels. Values are ids of the 459-class taxonomy, which the vocabularies map; converted PNGs
(mmsegmentation's ``SegmentationClassContext``) hold ranks 0..59 of the kept ids, and are brought back to them.
"""

from __future__ import annotations

import io
import json
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from common.code import code_of
from common.errors import UserError, known
from common.images import decode_mask
from common.kept import Kept, key_of
from common.records import Contents, Records, numbered, shards_of
from datamodules.labelled import FilePattern, Labels, MaskFiles, OriginalFiles, Published
from datamodules.reading.archives import find_files
from datamodules.reading.contents import contents, file_stamp
from datamodules.reading.convert import run_all
from datamodules.reading.files import Files
from datamodules.voc import read_list
from evaluation.vocabulary import Vocabulary

JSON = "trainval_merged.json"


class Context(OriginalFiles):
    """Context60 (with background) or Context59, on the 5105 validation pictures.

    Args:
        root: folder that holds ``VOCdevkit/VOC2010`` or ``VOCtrainval_03-May-2010.tar``, and ``trainval_merged.json`` (of
            the Detail API; converted once into the cache) or the folder ``trainval`` with the .mat files, unless
            ``VOC2010/SegmentationClassContext`` holds converted PNGs in mmsegmentation's order.
        vocabulary: ``context60`` or ``context59``; with ``_official`` the same classes in the official list's order.
        split: ``val`` or ``train``.
        options: as of :class:`DataModule`.
    """

    label_spaces = ("context60", "context59", "context60_official", "context59_official")
    published = Published(
        {"val": 5105, "train": 4998},
        {
            "VOCtrainval_03-May-2010.tar": (
                "http://host.robots.ox.ac.uk/pascal/VOC/voc2010/VOCtrainval_03-May-2010.tar",
                "da459979d0c395079b5c75ee67908abb",
            ),
            JSON: ("https://codalabuser.blob.core.windows.net/public/trainval_merged.json", ""),
            "trainval.tar.gz": ("https://cs.stanford.edu/~roozbeh/pascal-context/trainval.tar.gz", ""),
        },
    )

    def __init__(self, root: str, vocabulary: str = "context60", split: str = "val", **options: Any) -> None:
        super().__init__(root, vocabulary, split, **options)

    def picture_files(self) -> FilePattern:
        return FilePattern(self._devkit(), "JPEGImages/{}.jpg")

    def label_files(self) -> RankedMaskFiles | DetailLabels | MatFiles:
        root = Path(self.root)
        devkits = [Path("VOCdevkit", "VOC2010"), Path("VOC2010"), Path()]
        for place in (root / devkit for devkit in devkits):
            if (place / "SegmentationClassContext").is_dir():
                return RankedMaskFiles(Files(str(place)), "SegmentationClassContext/{}.png")
        for place in (root / devkit / JSON for devkit in devkits):
            if place.is_file():
                return DetailLabels(place)
        source = f"{self.published.archives[JSON][0]} (or {self.published.archives['trainval.tar.gz'][0]}, unpacked)"
        return MatFiles(find_files(root, [JSON, *(str(devkit / "trainval") for devkit in devkits)], "", source), "{}.mat")

    def listed(self, pictures: FilePattern, labels: Labels) -> tuple[list[str], str]:
        """The split's own list, in or beside the labels or the pictures, or VOC 2010's Main list, which has the same ones."""
        if isinstance(labels, DetailLabels):
            return labels.splits[known("split of PASCAL Context", self.split, labels.splits)], str(labels.file)
        beside = [labels.files, pictures.files] if isinstance(labels, FilePattern) else [pictures.files]
        for folder in ("ImageSets/SegmentationContext", "ImageSets/Main"):
            for files in beside:
                if files.has(folder):
                    return read_list(files, folder, self.split)
        raise UserError(f"'{self.root}' holds neither ImageSets/SegmentationContext nor ImageSets/Main of VOC 2010.")

    def prepare_data(self) -> None:
        """Converts the JSON on one process, before the others look."""
        labels = self.label_files()
        if isinstance(labels, DetailLabels):
            labels.convert()

    def _devkit(self) -> Files:
        places = ["VOCdevkit/VOC2010", "VOC2010", ".", "VOCtrainval_03-May-2010.tar:VOCdevkit/VOC2010"]
        return find_files(self.root, places, "JPEGImages", self.published.archives["VOCtrainval_03-May-2010.tar"][0])


class RankedMaskFiles(MaskFiles):
    """PNGs of ranks 0..59 in ascending order of the taxonomy's ids, read as those ids."""

    def read(self, name: str) -> NDArray[Any]:
        ranks = super().read(name)
        if ranks.max(initial=0) >= len(kept_ids()):
            raise UserError(f"mask '{self.path(name)}': value {ranks.max()} is not one of the 60 ranks.")
        return kept_ids()[ranks]


class MatFiles(FilePattern):
    """The original ``LabelMap`` of 459 classes."""

    def read(self, name: str) -> NDArray[Any]:
        from scipy.io import loadmat

        try:
            return np.ascontiguousarray(loadmat(io.BytesIO(self.bytes(name)))["LabelMap"]).astype(np.uint16)
        except (ValueError, KeyError, OSError, NotImplementedError, TypeError) as error:
            raise UserError(f"mask '{self.path(name)}' cannot be read: {error}") from error


class DetailLabels:
    """Labels of the Detail API's JSON, drawn once and kept: the JSON takes a minute to parse.

    Every annotation's RLE is drawn in the order of the file, as ``Detail.getMask`` does.

    Args:
        path: the JSON.

    Raises:
        UserError: not that JSON.
    """

    def __init__(self, path: Path) -> None:
        self.file = path
        content = contents(str(path.parent), [file_stamp(path)], lambda _: path.read_bytes())
        self.key = key_of(json=content.tobytes().hex(), code=code_of(draw_annotations))
        store = Kept("context")
        entry = store.read(self.key)
        if entry is None:
            store.write(self.key, {}, self._parsed["splits"])
        self.splits: dict[str, list[str]] = self._parsed["splits"] if entry is None else entry.note
        self.names = [name for names in self.splits.values() for name in names]
        self.number = {name: i for i, name in enumerate(self.names)}
        self.records = Records(store, self.key, numbered(self.key, len(self.names)))

    def known(self) -> set[str]:
        return set(self.names)

    def path(self, name: str) -> str:
        return f"{self.file}:{name}"

    def read(self, name: str) -> NDArray[Any]:
        record = self.records[self.number[name]]
        return kept_ids()[decode_mask(self._drawn(name) if record is None else record, self.path(name))]

    def content(self, names: list[str]) -> Contents:
        return self.records.pictures[[self.number[name] for name in names]]

    def convert(self) -> None:
        """Draws what is not kept yet, a shard at a time, so that a killed conversion goes on where it was."""
        missing = self.records.missing()
        if len(missing) and self.records.store.writable():
            print(f"converting '{self.file}' into '{self.records.store.folder}', once ...", flush=True)
            for shard in shards_of(missing):
                drawn = run_all([self.names[i] for i in shard], self._drawn, "converting")
                self.records.write(shard, drawn)
            self.records.refresh()

    def _drawn(self, name: str) -> bytes:
        """An index PNG of ranks."""
        file = io.BytesIO()
        Image.fromarray(draw_annotations(*self._parsed["pictures"][name])).save(file, "PNG")
        return file.getvalue()

    @cached_property
    def _parsed(self) -> dict[str, Any]:
        """``splits``: names by phase; ``pictures``: the image and its annotations by name."""
        try:
            found = json.loads(self.file.read_bytes())
            images = {image["image_id"]: image for image in found["images"]}
            annotations: dict[int, list[Any]] = {image_id: [] for image_id in images}
            for annotation in found["annos_segmentation"]:
                annotations[annotation["image_id"]].append(annotation)
            names = {image_id: Path(image["file_name"]).stem for image_id, image in images.items()}
            splits = {phase: [names[i] for i, one in images.items() if one["phase"] == phase] for phase in ("train", "val")}
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"'{self.file}' is not the Detail API's {JSON}: {error!r}. Download it again.") from error
        return {"splits": splits, "pictures": {names[i]: (images[i], annotations[i]) for i in images}}


def draw_annotations(image: dict[str, Any], annotations: list[dict[str, Any]]) -> NDArray[Any]:
    """(H, W) uint8 ranks of one picture."""
    from pycocotools import mask as rle

    rank_of = {kept: rank for rank, kept in enumerate(kept_ids().tolist())}
    ranks = np.zeros((image["height"], image["width"]), np.uint8)
    for annotation in annotations:
        inside = rle.decode(annotation["segmentation"]) > 0
        ranks[inside] = rank_of.get(annotation["category_id"], 0)
    return ranks


@cache
def kept_ids() -> NDArray[np.uint16]:
    """(60,) taxonomy id of each rank."""
    label_ids = Vocabulary.load("context60").label_ids
    assert label_ids is not None
    return np.array(sorted(label_ids), np.uint16)
