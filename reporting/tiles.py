"""``predict --tile``: label maps of huge pictures as GeoTIFFs, written tile by tile where the source lies on the earth."""

from __future__ import annotations

from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.batch import IGNORED, Box, Item
from common.drawing import palette_of_256, tint, with_legend
from common.errors import UserError
from common.files import atomic_path
from evaluation.label_map import LabelMap
from evaluation.vocabulary import Vocabulary
from reporting.predictions import SavePredictions, as_bytes, on_cpu, save_png
from reporting.shares import Shares

PREVIEW = 2000  # longest side of an overlay


class SaveTiles(SavePredictions):
    """Writes ``labels/NAME.tif``, whole or not at all, and of each picture a small overlay and a row."""

    def __init__(self, folder: Path, notes: dict[str, Any] | None = None) -> None:
        super().__init__(folder, notes)
        self.picture: TiledLabels | None = None

    @property
    def done(self) -> str:
        return f"{len(self.rows)} pictures in {sum(row['tiles'] for row in self.rows)} tiles"

    def on_predict_start(self, trainer: Any, pl_module: Any) -> None:
        super().on_predict_start(trainer, pl_module)
        self.root = trainer.datamodule.root

    def save(self, item: Item, result: LabelMap, vocabulary: Vocabulary) -> None:
        name = item["name"]
        if self.picture is None or self.picture.name != name:
            self.finish()
            self.picture = TiledLabels(name, self.root / name, self.folder, vocabulary)
        (top, left), kept = item["origin"], item["kept"]
        part = np.s_[kept[0] - top : kept[2] - top, kept[1] - left : kept[3] - left]
        labels, score = on_cpu(result)
        labels[~item["valid"].cpu().numpy()] = IGNORED
        self.picture.add(kept, as_bytes(item["image"])[part], labels[part], None if score is None else score[part])

    def fail(self, item: Item) -> None:
        super().fail(item)
        if self.picture is not None and self.picture.name == item["name"]:
            self.picture.discard(UserError(item["error"]))
            self.picture = None

    def finish(self) -> None:
        """The picture before is whole."""
        if self.picture is not None:
            self.rows.append(self.picture.finish())
            self.picture = None

    def on_predict_end(self, trainer: Any, pl_module: Any) -> None:
        self.finish()
        super().on_predict_end(trainer, pl_module)

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        if self.picture is not None:
            self.picture.discard(exception)


class TiledLabels:
    """The label map of one picture, in the making.

    Args:
        name: of the picture, from the folder of all pictures.
        source: its file, for its size and its place on the earth.
        folder: where ``labels`` and ``overlays`` lie.
        vocabulary: what was asked.
    """

    def __init__(self, name: str, source: Path, folder: Path, vocabulary: Vocabulary) -> None:
        self.name, self.folder, self.vocabulary = name, folder, vocabulary
        self.shares, self.tiles, self.unfinished = Shares(vocabulary.names), 0, ExitStack()
        self.file = self._opened(source)
        self.size = (self.file.height, self.file.width)
        self.every = -(-max(self.size) // PREVIEW)
        self.preview = np.zeros((*(-(-side // self.every) for side in self.size), 4), np.uint8)  # RGB and label

    def _opened(self, source: Path) -> Any:
        import rasterio  # optional

        with rasterio.open(source) as picture:
            place: dict[str, Any] = {"crs": picture.crs, "rpcs": picture.rpcs}
            if picture.gcps[0]:
                place |= {"gcps": picture.gcps[0], "crs": picture.gcps[1]}
            elif not picture.transform.is_identity:
                place |= {"transform": picture.transform}
            size = {"height": picture.height, "width": picture.width}
        path = self.unfinished.enter_context(atomic_path(self.folder / "labels" / f"{self.name}.tif"))
        kind = {"driver": "GTiff", "dtype": "uint8", "count": 1, "nodata": IGNORED}
        layout = {"tiled": True, "compress": "deflate", "bigtiff": "if_safer"}
        file = self.unfinished.enter_context(closing(rasterio.open(path, "w", **kind, **layout, **size, **place)))
        colours = palette_of_256(self.vocabulary.palette)
        file.write_colormap(1, {value: tuple(colour) for value, colour in enumerate(colours.tolist())})
        return file

    def add(self, box: Box, pixels: NDArray[np.uint8], labels: NDArray[np.uint8], score: NDArray[np.float32] | None) -> None:
        """What was found in a box: pixels (h, w, 3), labels (h, w), probabilities (h, w)."""
        top, left, bottom, right = box
        self.file.write(labels, 1, window=((top, bottom), (left, right)))
        self.shares.add(labels, score)
        self.tiles += 1
        thinned = np.s_[-top % self.every :: self.every, -left % self.every :: self.every]
        small = np.concatenate([pixels[thinned], labels[thinned][..., None]], -1)
        y, x = -(-top // self.every), -(-left // self.every)
        self.preview[y : y + small.shape[0], x : x + small.shape[1]] = small

    def finish(self) -> dict[str, Any]:
        """Puts the file into its place, adds the overlay; returns the row of ``predictions.json``."""
        self.unfinished.close()
        labels, palette = self.preview[..., 3], self.vocabulary.palette
        overlay = tint(self.preview[..., :3], labels, palette, self.vocabulary.background)
        save_png(with_legend(overlay, labels, self.vocabulary), self.folder / "overlays" / f"{self.name}.png")
        row = {"picture": self.name, "size": list(self.size), "tiles": self.tiles}
        return row | {"classes": self.shares.summary()}

    def discard(self, error: BaseException) -> None:
        """Nothing of it stays."""
        self.unfinished.__exit__(type(error), error, error.__traceback__)
