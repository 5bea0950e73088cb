"""Pictures of all shapes and kinds in one batch: each is scored as if it were alone."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import cli
from datamodules import DATAMODULES
from methods import METHODS
from tests import data as tiny

SIZES = [(8, 64), (64, 8), (1, 50), (50, 1), (1, 1), (48, 48), (30, 41), (33, 20), (37, 29)]


def make_odd(root: Path) -> None:
    """1:8, 8:1, one pixel wide, high or both; grey, CMYK, a turned camera, 16 bits."""
    folder = root / "VOCdevkit" / "VOC2012"
    rng = np.random.default_rng(0)
    names = [f"odd{i}" for i in range(len(SIZES))]
    for i, (name, size) in enumerate(zip(names, SIZES, strict=True)):
        tiny.mask(folder / "SegmentationClass", name, rng.choice([0, 1, 2, 255], size), palette=True)
        tiny.picture(folder / "JPEGImages", name, size)
        path, rgb = folder / "JPEGImages" / f"{name}.jpg", rng.integers(0, 256, (*size, 3), dtype=np.uint8)
        if i == 5:
            Image.fromarray(rgb[..., 0]).save(path)
        if i == 6:
            Image.fromarray(rgb).convert("CMYK").save(path)
        if i == 7:
            exif = Image.Exif()
            exif[0x0112] = 6
            Image.fromarray(rgb).save(path, exif=exif)
        if i == 8:
            Image.fromarray(rgb[..., 0].astype(np.uint16) * 257).save(path, "PNG")
    tiny.listing(folder / "ImageSets" / "Segmentation" / "val.txt", names)


@pytest.mark.parametrize("rule", ["sclip", "surgery"])
@pytest.mark.parametrize("protocol", ["shapes", "sclip", "groupvit", "ifseg"])
def test_odd_pictures_are_scored_as_if_alone(rule: str, protocol: str, tmp_path: Path) -> None:
    make_odd(tmp_path)
    small = {"short_side": 32, "max_long_side": 128} | ({} if protocol == "ifseg" else {"crop": 32, "stride": 16})
    model: Any = METHODS["TrainingFree"](rule, protocol=protocol, protocol_values=small)
    data = DATAMODULES["VOC"](str(tmp_path), batch_size=len(SIZES), num_workers=0)
    model.use_vocabulary(data.vocabulary)
    (batch,) = data.test_dataloader()
    together = model.segment(batch["image"])
    assert [tuple(result.labels.shape) for result in together] == SIZES
    for image, result in zip(batch["image"], together, strict=True):
        assert (model.segment([image])[0].labels != result.labels).float().mean() < 0.02  # ties of rounding


def test_odd_pictures_through_test(tmp_path: Path) -> None:
    make_odd(tmp_path)
    options = ["--data=VOC", f"--data.root={tmp_path}", "--data.num_workers=0", "--data.batch_size=9"]
    run = [f"--trainer.default_root_dir={tmp_path}", "--trainer.enable_progress_bar=false", "--trainer.accelerator=cpu"]
    assert cli.main(["test", "--config", "configs/training_free/sclip.yaml", *options, *run]) == 0
    assert json.loads(next(tmp_path.rglob("metrics.json")).read_text())["pictures"] == len(SIZES)


def test_a_turned_camera_does_not_turn_the_picture_away_from_its_mask(tmp_path: Path) -> None:
    make_odd(tmp_path)
    item: Any = DATAMODULES["VOC"](str(tmp_path)).benchmark("test")[7]
    assert item["image"].shape == (3, 33, 20)
    sixteen: Any = DATAMODULES["VOC"](str(tmp_path)).benchmark("test")[8]
    assert torch.equal(sixteen["image"][0], sixteen["image"][2])
    assert len(sixteen["image"].unique()) > 200
