"""FiftyOne: an ``ImageSegmentationDirectory`` whose ``data.json`` says where the pictures are, which stay there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import ClassVar

from PIL import Image

from reporting.exports.format import Format, Places, beside
from reporting.exports.mask_files import class_values, mask_classes
from reporting.exports.records import Annotations


class FiftyOne(Format):
    """Greyscale masks, where the pictures are, and the masks' targets (FiftyOne)."""

    by_stem: ClassVar[bool] = True
    places: ClassVar[Places] = "absolute"

    def write(self, annotations: Annotations, folder: Path) -> None:
        places = {}
        for picture in annotations:
            places[Path(picture.name).as_posix()] = str((annotations.root / picture.name).resolve())
            values = class_values(annotations, picture)
            Image.fromarray(values).save(beside(folder / "labels" / f"{picture.stem}.png"))
        targets = {value: of.name for value, of in enumerate(mask_classes(annotations.vocabulary))}
        for name, content in (("data.json", places), ("mask_targets.json", targets)):
            (folder / name).write_text(json.dumps(content, indent=1), encoding="utf-8")
