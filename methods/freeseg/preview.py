"""What mining saw: a row per picture with the picture, the similarity maps of its classes as heat maps, and the mined mask."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from common.drawing import blend

SHOWN = 4  # maps of a picture


@dataclass(frozen=True)
class MinedPicture:
    """``image`` (H, W, 3) and ``labels`` (H, W) uint8, and ``maps`` (h, w) in [0, 1] by class name."""

    image: NDArray[np.uint8]
    maps: dict[str, NDArray[np.float32]]
    labels: NDArray[np.uint8]


def mining_preview(rows: list[MinedPicture], palette: NDArray[np.uint8]) -> bytes:
    """The figure as a PNG; unsure pixels are white, colours are the classes'."""
    figure = Figure(figsize=(2 * (SHOWN + 2), 2.1 * len(rows)), layout="tight")
    axes = figure.subplots(len(rows), SHOWN + 2, squeeze=False)
    for row, found in zip(axes, rows, strict=True):
        for axis in row:
            axis.axis("off")
        row[0].imshow(found.image)
        for axis, (name, values) in zip(row[1:], list(found.maps.items())[:SHOWN], strict=False):
            axis.imshow(values, cmap="inferno", vmin=0, vmax=1)
            axis.set_title(name, fontsize=8)
        row[-1].imshow(blend(found.image, found.labels, palette))
    axes[0][0].set_title("picture", fontsize=8)
    axes[0][-1].set_title("mined", fontsize=8)
    file = io.BytesIO()
    figure.savefig(file, dpi=110, format="png")
    return file.getvalue()
