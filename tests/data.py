"""Tiny data sets in the original layouts, made by the tests; one entry per datamodule in ``DATA``."""

import json
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as rle

from datamodules import DATAMODULES

SIZES = [(60, 80), (90, 64), (48, 48)]
VOC_NAMES = [f"2007_00000{i}" for i in range(3)]
COCO_NAMES = ["000000000139", "000000000285", "000000000632"]
ADE_NAMES = [f"ADE_val_0000000{i}" for i in (1, 2, 3)]


def picture(folder: Path, name: str, size: tuple[int, int], seed: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(size[0] + seed)
    Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(folder / f"{name}.jpg")


def mask(folder: Path, name: str, values: np.ndarray, palette: bool = False) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(values.astype(np.uint8))
    if palette:
        image.putpalette(np.random.default_rng(0).integers(0, 256, 768, dtype=np.uint8).tobytes())
    image.save(folder / f"{name}.png")


def listing(path: Path, names: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(names) + "\n")


def blocks(size: tuple[int, int], outside: int, inside: int, line: int) -> np.ndarray:
    """A square of one value on another, and a line of a third."""
    values = np.full(size, outside, np.int64)
    values[10:30, 10:30] = inside
    values[30] = line
    return values


def make_voc(root: Path) -> dict[str, Any]:
    """VOCdevkit/VOC2012: palette masks with a void line."""
    folder = root / "VOCdevkit" / "VOC2012"
    for i, (name, size) in enumerate(zip(VOC_NAMES, SIZES, strict=True)):
        picture(folder / "JPEGImages", name, size)
        mask(folder / "SegmentationClass", name, blocks(size, 0, i + 1, 255), palette=True)
    listing(folder / "ImageSets" / "Segmentation" / "val.txt", VOC_NAMES)
    listing(folder / "ImageSets" / "Segmentation" / "train.txt", VOC_NAMES[:1])
    return {"root": str(root)}


CONTEXT_VALUES = [(0, 2, 431), (416, 458, 0), (284, 9, 459)]  # taxonomy ids; 431 and 459 are none of the 59


def context_values(i: int) -> np.ndarray:
    return blocks(SIZES[i], *CONTEXT_VALUES[i])


def make_context(root: Path, labels: str = "json") -> dict[str, Any]:
    """VOCdevkit/VOC2010 with the Detail API's JSON, the site's .mat files, or mmsegmentation's PNGs."""
    folder = root / "VOCdevkit" / "VOC2010"
    for name, size in zip(VOC_NAMES, SIZES, strict=True):
        picture(folder / "JPEGImages", name, size)
    listing(folder / "ImageSets" / "Main" / "val.txt", VOC_NAMES)
    if labels == "json":
        images = [
            {"image_id": i, "file_name": f"{name}.jpg", "height": h, "width": w, "phase": "val"}
            for i, (name, (h, w)) in enumerate(zip(VOC_NAMES, SIZES, strict=True))
        ]
        annotations = []
        for i in range(3):
            for value in np.unique(context_values(i)):
                code = rle.encode(np.asfortranarray(context_values(i) == value).astype(np.uint8))
                segmentation = {"size": code["size"], "counts": code["counts"].decode()}
                annotations.append({"image_id": i, "category_id": int(value), "segmentation": segmentation})
        (root / "trainval_merged.json").write_text(json.dumps({"images": images, "annos_segmentation": annotations}))
    for i, name in enumerate(VOC_NAMES):
        if labels == "mat":
            from scipy.io import savemat

            (root / "trainval").mkdir(exist_ok=True)
            savemat(root / "trainval" / f"{name}.mat", {"LabelMap": context_values(i).astype(np.uint16)})
        if labels == "png":
            rank = {0: 0, 2: 1, 9: 2, 284: 37, 416: 52, 458: 59}
            ranks = np.vectorize(lambda value, rank=rank: rank.get(value, 0))(context_values(i))
            mask(folder / "SegmentationClassContext", name, ranks)
    return {"root": str(root)}


COCO_VALUES = [(0, 90, 255), (168, 89, 1), (123, 33, 11)]  # COCO ids - 1; 11 is unused


def coco_values(i: int) -> np.ndarray:
    return blocks(SIZES[i], *COCO_VALUES[i])


def make_coco(root: Path) -> dict[str, Any]:
    """val2017 with stuffthingmaps."""
    for i, (name, size) in enumerate(zip(COCO_NAMES, SIZES, strict=True)):
        picture(root / "val2017", name, size)
        mask(root / "stuffthingmaps" / "val2017", name, coco_values(i))
    return {"root": str(root)}


def make_ade(root: Path) -> dict[str, Any]:
    """ADEChallengeData2016, validation part."""
    folder = root / "ADEChallengeData2016"
    for i, (name, size) in enumerate(zip(ADE_NAMES, SIZES, strict=True)):
        picture(folder / "images" / "validation", name, size)
        mask(folder / "annotations" / "validation", name, blocks(size, i + 1, 150 - i, 0))
    return {"root": str(root)}


CITIES = ["aachen/aachen_000000_000019", "aachen/aachen_000001_000019", "bonn/bonn_000000_000019"]
CITY_VALUES = [(7, 23, 0), (33, 26, 29), (11, 24, 255)]  # label ids; 0, 29 and 255 (licence plate) are not evaluated


def make_cityscapes(root: Path) -> dict[str, Any]:
    """leftImg8bit and gtFine, a folder for each city."""
    for i, (name, size) in enumerate(zip(CITIES, SIZES, strict=True)):
        folder = root / "leftImg8bit" / "val" / name.partition("/")[0]
        folder.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(i).integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / "leftImg8bit" / "val" / f"{name}_leftImg8bit.png")
        labels, file = root / "gtFine" / "val", f"{name}_gtFine_labelIds"
        mask((labels / name).parent, Path(file).name, blocks(size, *CITY_VALUES[i]))
        mask((labels / name).parent, Path(name).name + "_gtFine_instanceIds", blocks(size, 0, 0, 0))
    return {"root": str(root)}


def make_folder(root: Path) -> dict[str, Any]:
    """One's own pictures and masks, paired by stem."""
    for i, size in enumerate(SIZES):
        picture(root / "pictures", f"p{i}", size)
        mask(root / "labels", f"p{i}", blocks(size, 0, i + 1, 255))
    return {"images": str(root / "pictures"), "masks": str(root / "labels"), "classes": "background; cat; dog; cow"}


def make_pictures(root: Path) -> dict[str, Any]:
    """A folder with pictures of several kinds."""
    rng = np.random.default_rng(0)
    (root / "below").mkdir(parents=True)
    rgb = rng.integers(0, 256, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(rgb).save(root / "a.png")
    Image.fromarray(rgb[..., 0]).save(root / "below" / "grey.jpg")
    Image.fromarray(rgb).convert("CMYK").save(root / "cmyk.jpg")
    return {"images": str(root), "classes": "cat; dog, puppy; background"}


def make_unlabeled(root: Path) -> dict[str, Any]:
    """A VOC download, to train on and to be scored on."""
    made = make_voc(root)
    images = root / "VOCdevkit" / "VOC2012" / "JPEGImages"
    return {"images": str(images), "size": 32, "train_batch_size": 2, "scored_on": DATAMODULES["VOC"](**made, num_workers=0)}


def make_word_maps(root: Path) -> dict[str, Any]:
    scored_on = DATAMODULES["VOC"](**make_voc(root), num_workers=0)
    return {"scored_on": scored_on, "maps": 8, "largest": 6, "train_batch_size": 4}


def make_shapes(root: Path) -> dict[str, Any]:
    return {"pictures": 3, "train_pictures": 8, "train_batch_size": 4, "num_workers": 0}


DATA: dict[str, Callable[[Path], dict[str, Any]]] = {
    "VOC": make_voc,
    "Context": make_context,
    "COCO": make_coco,
    "ADE": make_ade,
    "Cityscapes": make_cityscapes,
    "Folder": make_folder,
    "Pictures": make_pictures,
    "UnlabeledImages": make_unlabeled,
    "WordMaps": make_word_maps,
    "Shapes": make_shapes,
}


def pack(folder: Path, archive: Path, inside: str, remove: bool = True) -> None:
    """Puts a folder into an archive, as published, and takes the folder away."""
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive, "a") as file:
            for path in sorted(folder.rglob("*")):
                kind = zipfile.ZIP_STORED if path.suffix == ".jpg" else zipfile.ZIP_DEFLATED
                file.write(path, f"{inside}/{path.relative_to(folder)}", kind)
    else:
        with tarfile.open(archive, "w") as file:
            file.add(folder, inside)
    if remove:
        shutil.rmtree(folder)
