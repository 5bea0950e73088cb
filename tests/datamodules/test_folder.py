"""One's own pictures and masks as a benchmark, by options alone; Cityscapes in its original files."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

import cli
from common.errors import UserError
from datamodules import DATAMODULES
from evaluation import Vocabulary
from tests import data as tiny
from tests.conftest import SHARED, needs_shared

Folder = DATAMODULES["Folder"]


def masks(data: Any) -> list[np.ndarray]:
    dataset = data.benchmark("test")
    return [dataset[i]["mask"].numpy() for i in range(len(dataset))]


def expected() -> list[np.ndarray]:
    return [tiny.blocks(size, 0, i + 1, 255) for i, size in enumerate(tiny.SIZES)]


def equal(data: Any) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(masks(data), expected(), strict=True))


@pytest.fixture
def own(tmp_path: Path) -> dict[str, Any]:
    return tiny.make_folder(tmp_path)


def test_values_are_positions_in_the_classes(own: dict[str, Any], tmp_path: Path) -> None:
    assert equal(Folder(**own))
    tiny.pack(tmp_path / "pictures", tmp_path / "pictures.zip", "pictures")
    tiny.pack(tmp_path / "labels", tmp_path / "labels.tar", "pictures")
    archives = {"images": str(tmp_path / "pictures.zip"), "masks": str(tmp_path / "labels.tar")}
    assert equal(Folder(**own | archives))


def test_ids_and_colours_are_mapped(own: dict[str, Any], tmp_path: Path) -> None:
    ids, colours = (
        {0: 40, 1: 7, 2: 9, 3: 11, 255: 0},
        {0: (0, 0, 0), 1: (255, 0, 0), 2: (0, 255, 0), 3: (1, 2, 3), 255: (9, 9, 9)},
    )
    for i, labels in enumerate(expected()):
        tiny.mask(tmp_path / "ids", f"p{i}_gt", np.vectorize(ids.get)(labels))
        rgb = np.zeros((*labels.shape, 3), np.uint8)
        for value, colour in colours.items():
            rgb[labels == value] = colour
        (tmp_path / "rgb").mkdir(exist_ok=True)
        Image.fromarray(rgb).save(tmp_path / "rgb" / f"p{i}.png")
    named = {40: "background", 7: "cat", 9: "dog", 11: "cow", 0: 255}
    assert equal(Folder(**own | {"masks": str(tmp_path / "ids"), "mask_name": "{}_gt.png", "ids": named}))
    palette = {"background": "#000000", "cat": "#ff0000", "dog": "00ff00", "cow": "#010203", "255": "#090909"}
    assert equal(Folder(**own | {"masks": str(tmp_path / "rgb"), "colours": palette}))
    with pytest.raises(UserError, match=r"p2\.png' holds the colour #010203, which --data\.colours does not name; .* by 255"):
        masks(Folder(**own | {"masks": str(tmp_path / "rgb"), "colours": {k: v for k, v in palette.items() if k != "cow"}}))
    with pytest.raises(
        UserError, match=r"mask value 11 is not in the label space .*, which has 0, 7, 9, 40\. --data\.ids says"
    ):
        masks(
            Folder(
                **own
                | {"masks": str(tmp_path / "ids"), "mask_name": "{}_gt.png", "ids": {k: v for k, v in named.items() if k != 11}}
            )
        )


def test_a_list_chooses_and_a_vocabulary_file_lies_anywhere(own: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "val.txt").write_text("\ufeffp2.jpg\n\n# a comment\np0\n", encoding="utf-8")
    chosen = Folder(**own, listing=str(tmp_path / "val.txt"))
    assert chosen.benchmark("test").names == ["p0", "p2"]
    file = tmp_path / "mine.yaml"
    words = {"own": {"cat": ["cat", "kitten"]}}
    file.write_text(
        yaml.safe_dump({"names": ["background", "cat", "dog", "cow"], "background": "background", "wordings": words})
    )
    data = Folder(**own | {"classes": str(file)})
    assert equal(data)
    assert data.vocabulary.background == 0
    assert data.vocabulary.worded("own").queries[1] == ("cat", "kitten")
    for content, message in (
        ("names: [a, b]\ncolor: x", "unknown key 'color'"),
        ("names: [a, b]\nbackground: c", "unknown background class 'c'"),
        ("- a\n- b", "is not as it should be"),
        ("names: [a", "is not as it should be"),
        ("!!python/object/apply:os.system ['true']", "is not as it should be"),
    ):
        file.write_text(content)
        with pytest.raises(UserError, match=message):
            Vocabulary.named(str(file))
    with pytest.raises(UserError, match=r"absent\.yaml' does not exist"):
        Vocabulary.named(str(tmp_path / "absent.yaml"))


def test_what_is_wrong_is_named(own: dict[str, Any], tmp_path: Path) -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({"images": "/nowhere"}, r"'/nowhere' does not exist\. Set --data\.images"),
        ({"mask_name": "{}_x.png"}, r"holds p0, p1, p2, without a mask '\{\}_x\.png'"),
        ({"mask_name": "mask.png"}, r"it needs \{\}"),
        ({"ids": {0: "catt"}}, r"unknown class of 'free text' 'catt'\. Did you mean 'cat'"),
        ({"colours": {"cat": "red"}}, r"'red' is no colour\. Write it as '#rrggbb'"),
        ({"ids": {0: "cat"}, "colours": {"cat": "#ffffff"}}, "not both"),
        ({"classes": ""}, "the class list is empty"),
    ]
    for options, message in cases:
        with pytest.raises(UserError, match=message):
            Folder(**own | options).benchmark("test")
    (tmp_path / "labels" / "p1.png").unlink()
    with pytest.raises(UserError, match=r"pictures' holds p1, without a mask"):
        Folder(**own).benchmark("test")
    (tmp_path / "pictures" / "p1.jpg").unlink()
    (tmp_path / "pictures" / "p2.jpg").unlink()
    with pytest.raises(UserError, match=r"labels' holds masks of p2, of which .* has no picture"):
        Folder(**own).benchmark("test")
    tiny.picture(tmp_path / "pictures", "p2", (5, 5))
    with pytest.raises(UserError, match=r"p2\.png. is \(48, 48\) but its picture is \(5, 5\)\. Is it"):
        masks(Folder(**own))


def test_it_is_a_column_of_a_comparison(own: dict[str, Any], tmp_path: Path) -> None:
    column = {"name": "mine", "data": "Folder", "options": {**own, "num_workers": 0}, "protocol": "shapes"}
    method = {"name": "SCLIP", "config": "configs/training_free/sclip.yaml"}
    (tmp_path / "plan.yaml").write_text(
        yaml.safe_dump({"title": "t", "methods": [method], "benchmarks": [column], "pictures": 1})
    )
    assert cli.main(["compare", "--config", str(tmp_path / "plan.yaml"), "--output", str(tmp_path / "out")]) == 0
    (row,) = csv.DictReader((tmp_path / "out" / "results.csv").open())
    assert row["pictures"] == "3"
    options = [f"--data.{name}={value}" for name, value in own.items()]
    test = [
        "test",
        "--config",
        "configs/training_free/sclip.yaml",
        "--data=Folder",
        *options,
        "--data.ids={0: 255, 1: cat, 2: dog, 3: cow, 255: 255}",
    ]
    assert cli.main([*test, f"--trainer.default_root_dir={tmp_path / 'runs'}"]) == 0
    metrics = json.loads(next((tmp_path / "runs").rglob("metrics.json")).read_text())
    assert metrics["pictures"] == 3


@needs_shared
def test_voc_read_as_a_folder_is_voc() -> None:
    root = SHARED / "real" / "VOCdevkit" / "VOC2012"
    listing = str(root / "ImageSets" / "Segmentation" / "val.txt")
    voc = DATAMODULES["VOC"](str(SHARED / "real")).benchmark("test")
    folder = Folder(str(root / "JPEGImages"), str(root / "SegmentationClass"), "voc21", listing=listing).benchmark("test")
    assert folder.names == sorted(voc.names)
    at = {name: i for i, name in enumerate(voc.names)}
    for i in range(0, len(folder), 9):
        theirs = voc[at[folder.names[i]]]
        assert np.array_equal(folder[i]["image"], theirs["image"])
        assert np.array_equal(folder[i]["mask"], theirs["mask"])


def test_cityscapes_from_its_folders_and_zips(tmp_path: Path) -> None:
    options = tiny.make_cityscapes(tmp_path)
    data = DATAMODULES["Cityscapes"](**options)
    ids = {7: 0, 33: 18, 11: 2, 23: 10, 26: 13, 24: 11}
    for i, labels in enumerate(masks(data)):
        values = tiny.blocks(tiny.SIZES[i], *tiny.CITY_VALUES[i])
        assert np.array_equal(labels, np.vectorize(lambda value: ids.get(value, 255))(values))
    assert data.benchmark("test").names == tiny.CITIES
    images = [data.benchmark("test")[i]["image"] for i in range(3)]
    tiny.pack(tmp_path / "leftImg8bit", tmp_path / "leftImg8bit_trainvaltest.zip", "leftImg8bit")
    tiny.pack(tmp_path / "gtFine", tmp_path / "gtFine_trainvaltest.zip", "gtFine")
    packed = DATAMODULES["Cityscapes"](**options).benchmark("test")
    assert all(np.array_equal(packed[i]["image"], images[i]) for i in range(3))
    (tmp_path / "gtFine_trainvaltest.zip").unlink()
    with pytest.raises(UserError, match=r"gtFine/val or gtFine_trainvaltest\.zip.*packageID=1"):
        DATAMODULES["Cityscapes"](**options).benchmark("test")
