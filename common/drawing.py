"""Label maps as pictures: indexed PNGs, overlays, legends."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from common.batch import IGNORED

TINT = 0.4  # of a class's colour over a photograph
HATCH = 8  # pixels from one stripe to the next where there is no class
NONE = "none of these"  # as the legend says it
GAP = 4  # pixels between pictures side by side


def label_image(labels: NDArray[np.uint8], palette: NDArray[np.uint8]) -> Image.Image:
    """Mode P image whose values are train ids; 255 is white."""
    image = Image.fromarray(labels)
    image.putpalette(palette_of_256(palette).tobytes())
    return image


def palette_of_256(palette: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(256, 3): the colours of the classes, and white for what is none."""
    return np.concatenate([palette, np.full((256 - len(palette), 3), 255, np.uint8)])


def blend(pixels: NDArray[np.uint8], labels: NDArray[np.uint8], palette: NDArray[np.uint8]) -> Image.Image:
    """The picture in grey under its classes' colours, with white lines between classes."""
    colours = palette_of_256(palette)
    mixed = (0.4 * pixels.mean(-1, keepdims=True) + 0.6 * colours[labels]).astype(np.uint8)
    edge = np.zeros(labels.shape, bool)
    edge[1:] |= labels[1:] != labels[:-1]
    edge[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    mixed[edge] = 255
    return Image.fromarray(mixed)


def side_by_side(parts: list[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Pictures (H, W, 3) of one height in a row."""
    gap = np.full((parts[0].shape[0], GAP, 3), 255, np.uint8)
    return np.concatenate([piece for part in parts for piece in (part, gap)][:-1], 1)


def tint(
    pixels: NDArray[np.uint8], labels: NDArray[np.uint8], palette: NDArray[np.uint8], background: int | None = None
) -> Image.Image:
    """The picture with a touch of its classes' colours and their outlines.

    What is background stays as it is, and is hatched where there is no class.
    """
    colours = palette_of_256(palette)
    share = np.full((*labels.shape, 1), TINT, np.float32)
    share[outlines(labels, max(1, min(labels.shape) // 200))] = 1
    if background is not None:
        share[labels == background] = 0
    share[labels == IGNORED] = 0
    tinted = (pixels * (1 - share) + colours[labels] * share).astype(np.uint8)
    hatch(tinted, labels == IGNORED)
    return Image.fromarray(tinted)


def hatch(pixels: NDArray[np.uint8], where: NDArray[np.bool_]) -> None:
    """Draws diagonal stripes over a part (H, W) of a picture (H, W, 3), dark beside white, to be seen on anything."""
    place = np.add.outer(np.arange(where.shape[0]), np.arange(where.shape[1])) % HATCH
    pixels[where & (place < 2)] = 255
    pixels[where & (place == 2)] = 64


def outlines(labels: NDArray[np.uint8], width: int) -> NDArray[np.bool_]:
    """(H, W) the pixels at most so far, along a row or a column, from another class."""
    found = np.zeros(labels.shape, bool)
    for step in range(1, width + 1):
        for a, b in ((np.s_[step:], np.s_[:-step]), (np.s_[:, step:], np.s_[:, :-step])):
            differ = labels[a] != labels[b]
            found[a] |= differ
            found[b] |= differ
    return found


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
    named = [(k, vocabulary.names[k]) for k in found] + [(IGNORED, NONE)] * bool(counts[IGNORED])
    entries = [(k, f"{name} {100 * counts[k] / labels.size:.0f}%") for k, name in named]
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
        swatch = np.full((box, box, 3), 160 if k == IGNORED else vocabulary.palette[k], np.uint8)
        hatch(swatch, np.full((box, box), k == IGNORED))
        canvas.paste(Image.fromarray(swatch), (x, top))
        draw.rectangle((x, top, x + box, top + box), outline="grey")
        draw.text((x + box + 6, top - 1), text, fill="black", font=font)
    return canvas


def token_colours() -> NDArray[np.uint8]:
    """64 colours (64, 3) in which segment tokens are told apart."""
    hues = (np.arange(64) * 0.618034) % 1
    wheel = np.clip(np.abs((hues[:, None] * 6 + np.array([0, 4, 2])) % 6 - 3) - 1, 0, 1)
    return (255 * (0.25 + 0.75 * wheel)).astype(np.uint8)
