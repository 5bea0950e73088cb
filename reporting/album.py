"""Pictures embedded in a page, up to a number of bytes, so that a page stays one that can be sent."""

from __future__ import annotations

import base64
import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

BUDGET = 15_000_000  # characters of a page's pictures; its tables come to a few more
WIDTH = 320  # pixels, about twice what the page shows


class Album:
    """Turns pictures into what an ``img`` shows without a file.

    Attributes:
        left: characters that may still be spent.
        left_out: pictures for which there was no room.
    """

    def __init__(self, budget: int = BUDGET) -> None:
        self.left, self.left_out = budget, 0

    def png(self, data: bytes) -> str | None:
        """A PNG as it is; None where there is no room for it."""
        return self._spend("png", data)

    def jpeg(self, pixels: NDArray[np.uint8], quality: int = 88) -> str | None:
        """Pixels (H, W, 3), at most :data:`WIDTH` wide, with their colours at full resolution."""
        image = Image.fromarray(pixels)
        image.thumbnail((WIDTH, 4 * WIDTH))  # small pictures are left to the browser's scaling
        file = io.BytesIO()
        image.save(file, "JPEG", quality=quality, subsampling=0)
        return self._spend("jpeg", file.getvalue())

    def _spend(self, kind: str, data: bytes) -> str | None:
        url = f"data:image/{kind};base64," + base64.b64encode(data).decode()
        if len(url) > self.left:
            self.left_out += 1
            return None
        self.left -= len(url)
        return url
