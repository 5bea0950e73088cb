"""Images and masks from bytes, files and whatever Python holds an image in, with errors that name the file."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from common.errors import UserError, in_one_line
from common.files import read_bytes

MAX_PIXELS = 100_000_000  # about 6.5 GB on the way to a label map
# mean and standard deviation of red, green and blue in [0, 1], for networks that learnt from ImageNet's pictures
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
Image.MAX_IMAGE_PIXELS = None  # the limit above is named; Pillow's warns, and only then refuses
SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"}


def decode_image(data: bytes, name: str, upright: bool = True) -> Tensor:
    """A picture as (3, H, W) uint8 RGB.

    Args:
        data: any format Pillow reads; grey, palette, CMYK and 16-bit pictures are brought to 8-bit RGB.
        name: the file, for messages.
        upright: turn it as its EXIF orientation says; off for benchmarks, whose masks follow the stored pixels.

    Raises:
        UserError: truncated, no picture, or one of more than 100 megapixels.
    """
    with _opened(data, f"picture '{name}'") as image:
        return _pixels(ImageOps.exif_transpose(image) if upright else image)


def _pixels(image: Image.Image) -> Tensor:
    """(3, H, W) uint8."""
    return torch.from_numpy(np.array(_to_8_bit(image).convert("RGB"))).permute(2, 0, 1).contiguous()


def read_image(path: Path | str, upright: bool = True) -> Tensor:
    """:func:`decode_image` of a file."""
    return decode_image(read_bytes(path), str(path), upright)


def is_upright_jpeg(path: Path | str) -> bool:
    """Whether a file is a JPEG whose pixels are stored as they are looked at.

    Raises:
        UserError: no picture.
    """
    with _opened(read_bytes(path), f"picture '{path}'") as image:
        return image.format == "JPEG" and image.getexif().get(ExifTags.Base.Orientation, 1) == 1


def decode_mask(data: bytes, name: str) -> NDArray[np.uint8]:
    """The stored values (H, W) of a palette or greyscale PNG: indices, never colours.

    Raises:
        UserError: broken, or a picture of colours.
    """
    with _opened(data, f"mask '{name}'") as image:
        if image.mode not in ("P", "L"):
            raise UserError(
                f"mask '{name}' is a {image.mode} picture; it must hold class indices (mode P or L), or name its colours "
                "(--data Folder --data.colours)."
            )
        return np.array(image)


def decode_colours(data: bytes, name: str) -> NDArray[np.uint32]:
    """The colours (H, W) of an RGB or palette mask, 65536 R + 256 G + B.

    Raises:
        UserError: broken.
    """
    with _opened(data, f"mask '{name}'") as image:
        return np.array(image.convert("RGB")).astype(np.uint32) @ np.array([65536, 256, 1], np.uint32)


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
            if image.width * image.height > MAX_PIXELS:
                megapixels = f"{image.width * image.height / 1e6:.0f} megapixels; at most {MAX_PIXELS / 1e6:.0f} are read"
                raise UserError(f"{what} has {megapixels}. Make a smaller copy of it; predict --tile 1024 cuts it up.")
            if image.format == "PNG":
                image.verify()  # the checksums, which reading passes over
        with Image.open(io.BytesIO(data)) as image:
            yield image
    except UnidentifiedImageError as error:
        raise UserError(f"{what} cannot be read: it is no picture ({len(data)} bytes).") from error
    except UserError:
        raise
    except (OSError, ValueError, SyntaxError) as error:
        raise UserError(f"{what} cannot be read: {in_one_line(error)}") from error


def _to_8_bit(image: Image.Image) -> Image.Image:
    """16-bit grey is scaled; Pillow's own conversion would clip it."""
    if image.mode.startswith("I;16") or image.mode == "I":
        return Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).clip(0, 255).astype(np.uint8))
    return image


ImageLike = str | Path | Image.Image | NDArray[Any] | Tensor


def as_images(given: Any) -> tuple[list[Tensor], bool]:
    """Images as tensors (3, H, W), uint8 or float in [0, 1], and whether a single one was given.

    Args:
        given: a path, a PIL image, an array (H, W, 3) or (H, W), a tensor (3, H, W); a list of these; a tensor (B, 3, H, W).

    Raises:
        UserError: something else, named with its type and shape.
    """
    if isinstance(given, Tensor) and given.ndim == 4:
        return [_as_image(one) for one in given], False
    if isinstance(given, list | tuple):
        return [_as_image(one) for one in given], False
    return [_as_image(given)], True


def _as_image(given: Any) -> Tensor:
    if isinstance(given, str | Path):
        return read_image(given)
    if isinstance(given, Image.Image):
        return _pixels(ImageOps.exif_transpose(given))
    if isinstance(given, np.ndarray):
        whole = given[..., None].repeat(3, -1) if given.ndim == 2 else given
        given = torch.from_numpy(np.ascontiguousarray(whole)).movedim(-1, 0) if whole.ndim == 3 else whole
    if not isinstance(given, Tensor) or given.ndim != 3 or given.shape[0] != 3 or not given.numel():
        shape = f" of shape {tuple(given.shape)}" if hasattr(given, "shape") else ""
        raise UserError(
            f"{type(given).__name__}{shape} is no image. Give a path, a PIL image, an array (H, W, 3) or a tensor (3, H, W)."
        )
    if given.dtype == torch.uint8:
        return given
    if not given.dtype.is_floating_point or not 0 <= float(given.min()) <= float(given.max()) <= 1:
        raise UserError(
            f"an image of {given.dtype} holds values from {float(given.min()):g} to {float(given.max()):g}. Give uint8, or "
            "floats in [0, 1]."
        )
    return given.float()
