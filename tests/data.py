"""Tiny data sets in the original layouts, made by the tests; one entry per datamodule in ``DATA``."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

VOC_SIZES = [(60, 80), (90, 64), (48, 48)]


def make_voc(root: Path) -> dict[str, Any]:
    """VOCdevkit/VOC2012 with three pictures: one class square on background, a void line."""
    folder = root / "VOCdevkit" / "VOC2012"
    for name in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (folder / name).mkdir(parents=True)
    rng = np.random.default_rng(0)
    names = [f"2007_00000{i}" for i in range(len(VOC_SIZES))]
    for i, (name, size) in enumerate(zip(names, VOC_SIZES, strict=True)):
        Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(folder / "JPEGImages" / f"{name}.jpg")
        mask = np.zeros(size, np.uint8)
        mask[10:30, 10:30] = i + 1
        mask[30] = 255
        image = Image.fromarray(mask)
        image.putpalette(rng.integers(0, 256, 768, dtype=np.uint8).tobytes())
        image.save(folder / "SegmentationClass" / f"{name}.png")
    (folder / "ImageSets" / "Segmentation" / "val.txt").write_text("\n".join(names) + "\n")
    return {"root": str(root)}


def make_pictures(root: Path) -> dict[str, Any]:
    """A folder with pictures of several kinds."""
    rng = np.random.default_rng(0)
    (root / "below").mkdir(parents=True)
    rgb = rng.integers(0, 256, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(rgb).save(root / "a.png")
    Image.fromarray(rgb[..., 0]).save(root / "below" / "grey.jpg")
    Image.fromarray(rgb).convert("CMYK").save(root / "cmyk.jpg")
    return {"images": str(root), "classes": "cat; dog, puppy; background"}


def make_shapes(root: Path) -> dict[str, Any]:
    return {"pictures": 3, "train_pictures": 8, "train_batch_size": 4, "num_workers": 0}


DATA: dict[str, Callable[[Path], dict[str, Any]]] = {"VOC": make_voc, "Pictures": make_pictures, "Shapes": make_shapes}
