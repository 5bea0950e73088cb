"""COCO: ``instances.json`` with run lengths, which are exact, and ``polygons.json`` for tools that read nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from reporting.exports.format import Format, write_items
from reporting.exports.mask_files import mask_classes, mask_values
from reporting.exports.polygons import Ring, polygons_of
from reporting.exports.records import AnnotatedPicture, Annotations, Region

Segmentation = Callable[[AnnotatedPicture, Region], Any]


class Coco(Format):
    """Boxes, areas, scores and masks as JSON (pycocotools, detectron2, CVAT, FiftyOne, Roboflow)."""

    def write(self, annotations: Annotations, folder: Path) -> None:
        for name, segmentation in (("instances.json", run_lengths), ("polygons.json", polygons)):
            self._write_file(annotations, folder / name, segmentation)

    def _write_file(self, annotations: Annotations, path: Path, segmentation: Segmentation) -> None:
        names = enumerate(mask_classes(annotations.vocabulary)[1:], 1)
        categories = [{"id": value, "name": of.name, "supercategory": ""} for value, of in names]
        images = (
            {"id": p.index + 1, "file_name": Path(p.name).as_posix(), "height": p.size[0], "width": p.size[1]}
            for p in annotations
        )
        with path.open("w", encoding="utf-8") as file:
            file.write(f'{{"info": {{}}, "licenses": [], "categories": {json.dumps(categories)},\n"images": ')
            write_items(file, images)
            file.write(',\n"annotations": ')
            write_items(file, self._objects(annotations, segmentation))
            file.write("}\n")

    def _objects(self, annotations: Annotations, segmentation: Segmentation) -> Iterator[dict[str, Any]]:
        values = mask_values(annotations.vocabulary)
        number = 0
        for picture in annotations:
            for region in annotations.objects(picture):
                number += 1
                yield {
                    "id": number,
                    "image_id": picture.index + 1,
                    "category_id": values[region.category],
                    "segmentation": segmentation(picture, region),
                    "area": region.area,
                    "bbox": list(region.box),
                    "iscrowd": 0,
                } | ({} if region.score is None else {"score": region.score})


def run_lengths(picture: AnnotatedPicture, region: Region) -> dict[str, Any]:
    """COCO's compressed run lengths, as a region has them."""
    return {"size": list(picture.size), "counts": region.counts}


def polygons(picture: AnnotatedPicture, region: Region) -> list[list[float]]:
    """x, y, x, y ... of each part."""
    rings = polygons_of(picture.mask(region), rasterised)
    return [[round(value, 2) for value in ring.ravel().tolist()] for ring in rings]


def rasterised(ring: Ring, size: tuple[int, int]) -> NDArray[np.bool_]:
    """(H, W) the pixels that pycocotools sees in a ring."""
    return coco_mask.decode(coco_mask.frPyObjects([ring.ravel().tolist()], *size))[..., 0].astype(bool)
