"""Decoding pictures and masks, with errors that name the file."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from common.errors import UserError
from common.files import read_bytes

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"}


def decode_image(data: bytes, name: str, upright: bool = True) -> Tensor:
    """A picture as (3, H, W) uint8 RGB.

    Args:
        data: any format Pillow reads; grey, palette, CMYK and 16-bit pictures are brought to 8-bit RGB.
        name: the file, for messages.
        upright: turn it as its EXIF orientation says; off for benchmarks, whose masks follow the stored pixels.

    Raises:
        UserError: truncated or no picture.
    """
    with _opened(data, f"picture '{name}'") as image:
        turned = ImageOps.exif_transpose(image) if upright else image
        pixels = np.array(_to_8_bit(turned).convert("RGB"))
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def read_image(path: Path | str, upright: bool = True) -> Tensor:
    """:func:`decode_image` of a file."""
    return decode_image(read_bytes(path), str(path), upright)


def decode_mask(data: bytes, name: str) -> NDArray[np.uint8]:
    """The stored values (H, W) of a palette or greyscale PNG: indices, never colours.

    Raises:
        UserError: broken, or a picture of colours.
    """
    with _opened(data, f"mask '{name}'") as image:
        if image.mode not in ("P", "L"):
            raise UserError(f"mask '{name}' is a {image.mode} picture; it must hold class indices (mode P or L).")
        return np.array(image)


def decode_ids(data: bytes, name: str) -> NDArray[np.uint32]:
    """The ids (H, W) of a panoptic PNG, R + 256 G + 65536 B.

    Raises:
        UserError: broken, or not RGB.
    """
    with _opened(data, f"panoptic map '{name}'") as image:
        if image.mode != "RGB":
            raise UserError(f"panoptic map '{name}' is a {image.mode} picture; ids are stored as RGB.")
        return np.array(image).astype(np.uint32) @ np.array([1, 256, 65536], np.uint32)


@contextmanager
def _opened(data: bytes, what: str) -> Iterator[Image.Image]:
    try:
        with Image.open(io.BytesIO(data)) as image:
            yield image
    except UnidentifiedImageError as error:
        raise UserError(f"{what} cannot be read: it is no picture ({len(data)} bytes).") from error
    except UserError:
        raise
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"{what} cannot be read: {str(error).splitlines()[0]}") from error


def _to_8_bit(image: Image.Image) -> Image.Image:
    """16-bit grey is scaled; Pillow's own conversion would clip it."""
    if image.mode.startswith("I;16") or image.mode == "I":
        return Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).clip(0, 255).astype(np.uint8))
    return image
