"""What ``predict`` leaves behind: a label PNG, an overlay with a legend and a JSON line per picture."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch.callbacks import Callback
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from evaluation.label_map import LabelMap
from zerolabel_common import atomic_path, gathered, is_repeat, writable_folder


class SavePredictions(Callback):
    """Writes ``labels/NAME.png`` (indexed palette), ``overlays/NAME.png`` and ``predictions.json``.

    Of a method with segment tokens also ``segments/NAME.png``: the token of every pixel, in colours without meaning.

    Attributes:
        failed: name and error of the pictures that could not be read.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rows: list[dict[str, Any]] = []
        self.failed: list[tuple[str, str]] = []

    def on_predict_start(self, trainer: Any, pl_module: Any) -> None:
        writable_folder(self.folder)

    def on_predict_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        vocabulary = pl_module.vocabulary
        fields = [batch[key] for key in ("index", "name", "image", "error")]
        for index, name, image, error, result in zip(*fields, outputs, strict=True):
            if is_repeat(index):
                continue
            if result is None:
                self.failed.append((name, error))
                continue
            pixels = (image.permute(1, 2, 0).cpu().numpy() * 255 + 0.5).astype(np.uint8)
            labels = result.labels.cpu().numpy()
            _save(label_image(labels, vocabulary.palette), self.folder / "labels" / f"{name}.png")
            overlay = with_legend(blend(pixels, labels, vocabulary.palette), labels, vocabulary)
            _save(overlay, self.folder / "overlays" / f"{name}.png")
            if result.segments is not None:
                segments = result.segments.cpu().numpy().astype(np.uint8)
                _save(blend(pixels, segments, token_colours()), self.folder / "segments" / f"{name}.png")
            self.rows.append({"picture": name, "size": list(labels.shape), "classes": summary(result, vocabulary.names)})

    def on_predict_end(self, trainer: Any, pl_module: Any) -> None:
        self.rows = sorted(gathered(self.rows), key=lambda row: row["picture"])
        self.failed = sorted(gathered(self.failed))
        if not trainer.is_global_zero:
            return
        content = {
            "vocabulary": list(pl_module.vocabulary.names),
            "protocol": pl_module.protocol.hash,
            "pictures": self.rows,
            "failed": [{"picture": name, "error": error} for name, error in self.failed],
        }
        with atomic_path(self.folder / "predictions.json") as path:
            path.write_text(json.dumps(content, indent=1))
        print(f"{len(self.rows)} pictures segmented: label maps, overlays and predictions.json are in {self.folder}")
        for _, error in self.failed:
            print(f"error: {error}", file=sys.stderr)
        if self.failed:
            print(f"error: {len(self.failed)} of {len(self.rows) + len(self.failed)} pictures failed.", file=sys.stderr)


def summary(result: LabelMap, names: tuple[str, ...]) -> dict[str, dict[str, float]]:
    """Per class found: its share of the picture and the mean probability of its pixels, largest first."""
    counts = np.bincount(result.labels.cpu().numpy().ravel(), minlength=len(names))
    score = None if result.score is None else result.score.float().cpu().numpy()
    labels = result.labels.cpu().numpy()
    return {
        names[k]: {"area": round(counts[k] / labels.size, 4)}
        | ({} if score is None else {"score": round(float(score[labels == k].mean()), 4)})
        for k in np.argsort(-counts, kind="stable")
        if counts[k]
    }


def token_colours() -> NDArray[np.uint8]:
    """64 colours (64, 3) in which segment tokens are told apart."""
    hues = (np.arange(64) * 0.618034) % 1
    wheel = np.clip(np.abs((hues[:, None] * 6 + np.array([0, 4, 2])) % 6 - 3) - 1, 0, 1)
    return (255 * (0.25 + 0.75 * wheel)).astype(np.uint8)


def label_image(labels: NDArray[np.uint8], palette: NDArray[np.uint8]) -> Image.Image:
    """Mode P image whose values are train ids; 255 is white."""
    image = Image.fromarray(labels)
    colours = np.full((256, 3), 255, np.uint8)
    colours[: len(palette)] = palette
    image.putpalette(colours.tobytes())
    return image


def blend(pixels: NDArray[np.uint8], labels: NDArray[np.uint8], palette: NDArray[np.uint8]) -> Image.Image:
    """The picture in grey under its classes' colours, with white lines between classes."""
    colours = np.concatenate([palette, np.full((256 - len(palette), 3), 255, np.uint8)])
    mixed = (0.4 * pixels.mean(-1, keepdims=True) + 0.6 * colours[labels]).astype(np.uint8)
    edge = np.zeros(labels.shape, bool)
    edge[1:] |= labels[1:] != labels[:-1]
    edge[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    mixed[edge] = 255
    return Image.fromarray(mixed)


def with_legend(picture: Image.Image, labels: NDArray[np.uint8], vocabulary: Any) -> Image.Image:
    """Adds the classes found, largest first, below the picture; a small picture is enlarged so that text fits."""
    if picture.width < 320:
        scale = -(-320 // picture.width)
        picture = picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST)
    size = max(13, picture.width // 45)
    font = ImageFont.load_default(size)
    line, box = int(size * 1.6), size
    counts = np.bincount(labels.ravel(), minlength=256)
    found = [k for k in np.argsort(-counts[: vocabulary.num_classes], kind="stable") if counts[k]]
    entries = [(k, f"{vocabulary.names[k]} {100 * counts[k] / labels.size:.0f}%") for k in found]
    places, x, y = [], 6, 4
    for k, text in entries:
        width = box + 6 + int(font.getlength(text)) + 16
        if x + width > picture.width and x > 6:
            x, y = 6, y + line
        places.append((x, y, k, text))
        x += width
    canvas = Image.new("RGB", (picture.width, picture.height + y + line), "white")
    canvas.paste(picture)
    draw = ImageDraw.Draw(canvas)
    for x, y, k, text in places:
        top = picture.height + y
        draw.rectangle((x, top, x + box, top + box), fill=tuple(vocabulary.palette[k]), outline="grey")
        draw.text((x + box + 6, top - 1), text, fill="black", font=font)
    return canvas


def _save(image: Image.Image, path: Path) -> None:
    with atomic_path(path) as temporary:
        image.save(temporary, format="PNG")
