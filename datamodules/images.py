"""Reading pictures and masks from files, with errors that name the file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from zerolabel_common import UserError

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"}


def read_picture(path: Path, upright: bool = True) -> Tensor:
    """A picture as (3, H, W) float32 RGB in [0, 1].

    Args:
        path: any format Pillow reads; grey, palette, CMYK and 16-bit pictures are brought to 8-bit RGB.
        upright: turn it as its EXIF orientation says; off for benchmarks, whose masks follow the stored pixels.

    Raises:
        UserError: missing, truncated or no picture.
    """
    try:
        with Image.open(path) as image:
            turned = ImageOps.exif_transpose(image) if upright else image
            pixels = np.asarray(_to_8_bit(turned).convert("RGB"))
    except FileNotFoundError as error:
        raise UserError(f"picture '{path}' does not exist.") from error
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"picture '{path}' cannot be read: {str(error).splitlines()[0]}") from error
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1).float().div_(255)


def read_mask(path: Path) -> NDArray[np.uint8]:
    """The stored values (H, W) of a palette or greyscale PNG: indices, never colours.

    Raises:
        UserError: missing, broken, or a picture of colours.
    """
    try:
        with Image.open(path) as image:
            if image.mode not in ("P", "L"):
                raise UserError(f"mask '{path}' is a {image.mode} picture; it must hold class indices (mode P or L).")
            return np.asarray(image).copy()
    except FileNotFoundError as error:
        raise UserError(f"mask '{path}' does not exist.") from error
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise UserError(f"mask '{path}' cannot be read: {str(error).splitlines()[0]}") from error


def _to_8_bit(image: Image.Image) -> Image.Image:
    """16-bit grey is scaled; Pillow's own conversion would clip it."""
    if image.mode.startswith("I;16") or image.mode == "I":
        return Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).clip(0, 255).astype(np.uint8))
    return image
