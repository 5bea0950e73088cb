"""labelme: a JSON file of polygons for each picture, which stays where it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from reporting.exports.format import Format, Places, beside, relative
from reporting.exports.polygons import Ring, polygons_of
from reporting.exports.records import AnnotatedPicture, Annotations, Region

WRITTEN_AS = "5.5.0"  # of the layout: newer versions of labelme read it
INSET = 0.01  # labelme fills a polygon and every pixel that its edge touches


class Labelme(Format):
    """A JSON file of polygons a picture (labelme)."""

    by_stem: ClassVar[bool] = True
    places: ClassVar[Places] = "relative"

    def write(self, annotations: Annotations, folder: Path) -> None:
        for picture in annotations:
            file = folder / f"{picture.stem}.json"
            content: dict[str, Any] = {
                "version": WRITTEN_AS,
                "flags": {},
                "shapes": self._shapes(annotations, picture),
                "imagePath": relative(annotations.root / picture.name, file.parent),
                "imageData": None,
                "imageHeight": picture.size[0],
                "imageWidth": picture.size[1],
            }
            beside(file).write_text(json.dumps(content, indent=1), encoding="utf-8")

    def _shapes(self, annotations: Annotations, picture: AnnotatedPicture) -> list[dict[str, Any]]:
        """The polygons of a region share a group, which is how labelme knows that they are one."""
        names = annotations.vocabulary.names
        return [
            shape(names[region.category], group, region, ring)
            for group, region in enumerate(annotations.objects(picture))
            for ring in polygons_of(picture.mask(region), rasterised, INSET)
        ]


def shape(label: str, group: int, region: Region, ring: Ring) -> dict[str, Any]:
    return {
        "label": label,
        "points": ring.round(2).tolist(),
        "group_id": group,
        "description": "" if region.score is None else f"{region.score:.2f}",
        "shape_type": "polygon",
        "flags": {},
    }


def rasterised(ring: Ring, size: tuple[int, int]) -> NDArray[np.bool_]:
    """(H, W) the pixels that labelme sees in a ring, by Pillow as there."""
    canvas = Image.new("1", (size[1], size[0]))
    ImageDraw.Draw(canvas).polygon([tuple(point) for point in ring.round(2).tolist()], outline=1, fill=1)
    return np.asarray(canvas)
