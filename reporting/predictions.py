"""What ``predict`` leaves behind: a label PNG and an overlay per picture, a JSON file and pages that show them all."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from lightning.pytorch.callbacks import Callback
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from common.batch import Item
from common.distributed import gathered, is_padding_sample
from common.drawing import blend, label_image, tint, token_colours, with_legend
from common.files import atomic_path, writable_folder
from evaluation.label_map import LabelMap
from evaluation.protocol import Protocol
from evaluation.vocabulary import Vocabulary
from reporting.prediction_pages import write_pages
from reporting.shares import Shares

ROWS = "predictions.json"


class SavePredictions(Callback):
    """Writes ``labels/NAME.png`` (indexed palette), ``overlays/NAME.png``, ``predictions.json`` and ``predictions.html``.

    Of a method with segment tokens also ``segments/NAME.png``: the token of every pixel, in colours without meaning. Pixels
    that are none of the words are 255 in the labels, hatched in the overlays, and a share ``none`` of their own in the JSON.

    Args:
        folder: where to.
        notes: what else ``predictions.json`` is to say of all pictures.

    Attributes:
        failed: name and error of the pictures that could not be read.
    """

    def __init__(self, folder: Path, notes: dict[str, Any] | None = None) -> None:
        self.folder, self.notes = folder, notes or {}
        self.rows: list[dict[str, Any]] = []
        self.failed: list[tuple[str, str]] = []

    @property
    def done(self) -> str:
        """How much was segmented, in words."""
        return f"{len(self.rows)} pictures"

    def on_predict_start(self, trainer: Any, pl_module: Any) -> None:
        writable_folder(self.folder)
        if trainer.is_global_zero and (self.folder / ROWS).is_file():
            print(f"note: '{self.folder}' holds an earlier predict. Its label maps stay, {ROWS} and the page are replaced.")

    def on_predict_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        for place, result in enumerate(outputs):
            item: Item = {key: values[place] for key, values in batch.items()}  # type: ignore[assignment]
            if is_padding_sample(item["index"]):
                continue
            if result is None:
                self.fail(item)
            else:
                self.save(item, result, pl_module.vocabulary)

    def save(self, item: Item, result: LabelMap, vocabulary: Vocabulary) -> None:
        """Writes what was found in an item."""
        self.rows.append(save_picture(self.folder, item["name"], item["image"], result, vocabulary))

    def fail(self, item: Item) -> None:
        """Notes what could not be read."""
        self.failed.append((item["name"], item["error"]))

    def on_predict_end(self, trainer: Any, pl_module: Any) -> None:
        self.rows = sorted(gathered(self.rows), key=lambda row: row["picture"])
        self.failed = sorted(gathered(self.failed))
        if not trainer.is_global_zero:
            return
        save_rows(self.folder, pl_module.vocabulary, pl_module.protocol, self.rows, self.failed, self.notes)
        write_pages(self.folder, trainer.datamodule.root, self.rows, pl_module.vocabulary, self.done)
        print(f"{self.done} segmented: label maps, overlays and predictions.json are in {self.folder};")
        if self.rows:
            print(f"look at {self.folder / 'predictions.html'}")
        for _, error in self.failed:
            print(f"error: {error}", file=sys.stderr)
        if self.failed:
            print(f"error: {len(self.failed)} of {len(self.rows) + len(self.failed)} pictures failed.", file=sys.stderr)


def save_picture(folder: Path, name: str, image: Tensor, result: LabelMap, vocabulary: Vocabulary) -> dict[str, Any]:
    """Writes what there is to see of a picture (3, H, W) in [0, 1]; returns its row of ``predictions.json``."""
    pixels, (labels, score) = as_bytes(image), on_cpu(result)
    save_png(label_image(labels, vocabulary.palette), folder / "labels" / f"{name}.png")
    overlay = tint(pixels, labels, vocabulary.palette, vocabulary.background)
    save_png(with_legend(overlay, labels, vocabulary), folder / "overlays" / f"{name}.png")
    if result.segments is not None:
        segments = result.segments.cpu().numpy().astype(np.uint8)
        save_png(blend(pixels, segments, token_colours()), folder / "segments" / f"{name}.png")
    return {"picture": name, "size": list(labels.shape), **Shares(vocabulary.names).add(labels, score).row()}


def save_rows(
    folder: Path,
    vocabulary: Vocabulary,
    protocol: Protocol,
    rows: list[dict[str, Any]],
    failed: list[tuple[str, str]],
    notes: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    """Writes ``predictions.json``: what was asked and how, the pictures' rows, and which could not be read and why."""
    content = {
        "vocabulary": list(vocabulary.names),
        "protocol": protocol.hash,
        **notes,
        "pictures": rows,
        "failed": [{"picture": name, "error": error} for name, error in failed],
    }
    with atomic_path(folder / ROWS) as path:
        path.write_text(json.dumps(content, indent=1))


def summary(result: LabelMap, names: tuple[str, ...]) -> dict[str, dict[str, float]]:
    """Per class found: its share of the picture and the mean probability of its pixels, largest first."""
    return Shares(names).add(*on_cpu(result)).summary()


def on_cpu(result: LabelMap) -> tuple[NDArray[np.uint8], NDArray[np.float32] | None]:
    """Labels (H, W) and, where there are some, their probabilities."""
    return result.labels.cpu().numpy(), None if result.score is None else result.score.float().cpu().numpy()


def as_bytes(image: Tensor) -> NDArray[np.uint8]:
    """The pixels (H, W, 3) of a picture (3, H, W) in [0, 1]."""
    return (image.permute(1, 2, 0).cpu().numpy() * 255 + 0.5).astype(np.uint8)


def save_png(image: Image.Image, path: Path) -> None:
    """Whole or not at all."""
    with atomic_path(path) as temporary:
        image.save(temporary, format="PNG")
