"""CVAT: a zip to be uploaded as "Segmentation mask 1.1" annotations of a task that holds the pictures."""

from __future__ import annotations

import io
from pathlib import Path
from zipfile import ZipFile

from reporting.exports.mask_files import voc_masks
from reporting.exports.records import Annotations
from reporting.exports.voc import WithLabelMap, label_map, lines

UNPAINTED = 0  # CVAT knows no value for what is not annotated; it makes no shape of the background


class Cvat(WithLabelMap):
    """A zip of masks, "Segmentation mask 1.1" (CVAT)."""

    def write(self, annotations: Annotations, folder: Path) -> None:
        stems = []
        with ZipFile(folder / "segmentation_mask_1.1.zip", "w") as archive:  # PNGs are packed already
            for picture in annotations:
                stems.append(picture.stem)
                for kind, image in voc_masks(annotations, picture, UNPAINTED):
                    data = io.BytesIO()
                    image.save(data, format="PNG")
                    archive.writestr(f"{kind}/{picture.stem}.png", data.getvalue())
            archive.writestr("ImageSets/Segmentation/default.txt", lines(stems))
            archive.writestr("labelmap.txt", label_map(annotations.vocabulary))
