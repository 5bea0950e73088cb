"""Huge pictures as overlapping tiles, read by rasterio from top to bottom: a row of tiles is in memory, and no more.

All tiles of a picture are of one size, so that a protocol which resizes shows the network things at one scale; the last of a
row or column is shifted back inside the picture. Of each tile that part is kept which is nearer to its centre than to its
neighbours': the borders of what is kept lie in the middle of the overlaps.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import ExifTags, Image
from torch.utils.data import IterableDataset

from common.batch import Box, Item
from common.errors import UserError, how_to_install, in_one_line
from evaluation.windows import window_starts

CACHE = 64  # MB of decoded blocks that GDAL keeps, instead of a twentieth of all memory


class Span(NamedTuple):
    """Along one side of a picture: where a tile begins, and from where to where it is kept."""

    start: int
    kept_from: int
    kept_to: int


@dataclass(frozen=True)
class Tiling:
    """How pictures are cut.

    Attributes:
        side: of the square tiles, pixels; of a smaller picture there is one tile, as large as itself.
        overlap: pixels that neighbours share at least.
    """

    side: int
    overlap: int

    def __post_init__(self) -> None:
        if self.overlap >= self.side:
            raise UserError(f"the overlap is {self.overlap}; tiles of {self.side} can share at most {self.side - 1} pixels.")
        if find_spec("rasterio") is None:
            raise UserError(f"cutting pictures into tiles needs rasterio: {how_to_install('tiles')}")
        os.environ.setdefault("GDAL_CACHEMAX", str(CACHE))

    def spans(self, length: int) -> list[Span]:
        """The tiles along a side of a picture."""
        starts = window_starts(length, self.side, self.side - self.overlap)
        middles = [(before + self.side + after) // 2 for before, after in pairwise(starts)]
        edges = pairwise([0, *middles, length])
        return [Span(start, *edge) for start, edge in zip(starts, edges, strict=True)]


class Tiles(IterableDataset[Item]):
    """The tiles of pictures, one picture after the other, each in reading order.

    An unreadable picture becomes an item with its error, so that the others are still done.
    """

    def __init__(self, files: list[Path], root: Path, tiling: Tiling) -> None:
        self.files, self.root, self.tiling = files, root, tiling

    @property
    def expected(self) -> int:
        """How many there will be, by the headers."""
        count = 0
        for path in self.files:
            with suppress(UserError), _opened(path) as picture:
                count += len(self.tiling.spans(picture.height)) * len(self.tiling.spans(picture.width))
        return count

    def __iter__(self) -> Iterator[Item]:
        for index, path in enumerate(self.files):
            item: Item = {"name": str(path.relative_to(self.root)), "index": index, "error": ""}
            try:
                for box, origin, pixels, valid in self._of(path):
                    image = torch.from_numpy(pixels)
                    yield {**item, "image": image, "kept": box, "origin": origin, "valid": torch.from_numpy(valid)}
            except UserError as error:
                empty: Any = {"image": None, "kept": (0, 0, 0, 0), "origin": (0, 0), "valid": None}
                yield {**item, **empty, "error": str(error)}

    def _of(self, path: Path) -> Iterator[tuple[Box, tuple[int, int], NDArray[np.uint8], NDArray[np.bool_]]]:
        """What is kept of a tile, in the picture; its upper left corner; its pixels (3, H, W) and which of them hold data."""
        with _opened(path) as picture:
            across, side, done = self.tiling.spans(picture.width), self.tiling.side, 0
            band = np.empty((4, 0, picture.width), np.uint8)  # RGB and the mask of the rows that a row of tiles needs
            for row in self.tiling.spans(picture.height):
                end = min(row.start + side, picture.height)
                new = _read_rows(picture, done, end)  # only onwards: a PNG can be read from its beginning alone
                band = np.concatenate([band[:, band.shape[1] - (done - row.start) :], new], 1)
                done = end
                for column in across:
                    tile = band[:, :, column.start : column.start + side]
                    kept = (row.kept_from, column.kept_from, row.kept_to, column.kept_to)
                    yield kept, (row.start, column.start), tile[:3].copy(), tile[3] > 0


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """The picture as rasterio's dataset.

    Raises:
        UserError: no picture, one whose values are not 8 or 16 bits, or one that is stored turned.
    """
    import rasterio  # optional

    try:
        with closing(rasterio.open(path)) as picture:  # its own context wants to end before the label map's file does
            if (kind := picture.dtypes[0]) not in ("uint8", "uint16"):
                hint = "Make a copy of 8 bits, such as by gdal_translate -ot Byte -scale."
                raise UserError(f"picture '{path}' holds {kind}, whose black and white nobody knows. {hint}")
            if (turn := _orientation(path)) != 1:
                raise UserError(
                    f"picture '{path}' is stored turned (orientation {turn}), which tiles are not. Turn a copy of it."
                )
            yield picture
    except rasterio.errors.RasterioError as error:
        raise UserError(f"picture '{path}' cannot be read: {in_one_line(error)}") from error


def _orientation(path: Path) -> int:
    """As a camera says it; 1 is upright, and what Pillow knows nothing of."""
    with suppress(OSError, ValueError, SyntaxError), Image.open(path) as image:
        header = Image.Image.getexif(image)  # a PNG's own would decode the whole picture
        return int(header.get(ExifTags.Base.Orientation, 1))
    return 1


def _read_rows(picture: Any, first: int, end: int) -> NDArray[np.uint8]:
    """(4, H, W) RGB and the mask of some rows; grey and palette are brought to RGB, of more bands the first three are taken."""
    from rasterio.windows import Window

    rows = Window(0, first, picture.width, end - first)
    mask = picture.dataset_mask(window=rows)
    values = picture.read([1, 2, 3] if picture.count >= 3 else [1], window=rows)
    if picture.colorinterp[0].name == "palette":
        colours = np.zeros((256, 3), np.uint8)
        for value, colour in picture.colormap(1).items():
            colours[value] = colour[:3]
        values = colours[values[0]].transpose(2, 0, 1)
    bits = int(picture.tags(1, ns="IMAGE_STRUCTURE").get("NBITS", 8 * values.itemsize))
    scaled = values >> (bits - 8) if bits > 8 else values * np.uint8(255 // (2**bits - 1))
    return np.concatenate([np.broadcast_to(scaled.astype(np.uint8), (3, *mask.shape)), mask[None]])
