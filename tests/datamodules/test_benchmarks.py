"""The published data sets in every container, pixel for pixel, and what is wrong with a download."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as rle

from common.errors import UserError
from datamodules import DATAMODULES
from datamodules.coco import panoptic_values
from evaluation import Vocabulary
from tests import data as tiny
from tests.conftest import SHARED, needs_shared


def masks(dataset: Any) -> list[np.ndarray]:
    return [dataset[i]["mask"].numpy() for i in range(len(dataset))]


def test_voc_from_its_folder_and_its_tar(tmp_path: Path) -> None:
    options = tiny.make_voc(tmp_path)
    unpacked = DATAMODULES["VOC"](**options).benchmark("test")
    for i, labels in enumerate(masks(unpacked)):
        assert np.array_equal(labels, tiny.blocks(tiny.SIZES[i], 0, i + 1, 255))
    for i, labels in enumerate(masks(DATAMODULES["VOC"](**options, vocabulary="voc20").benchmark("test"))):
        assert np.array_equal(labels, tiny.blocks(tiny.SIZES[i], 255, i, 255))
    assert len(DATAMODULES["VOC"](**options, split="train").benchmark("val")) == 1
    assert len(DATAMODULES["VOC"](str(tmp_path / "VOCdevkit" / "VOC2012")).benchmark("val")) == 3
    items = [unpacked[i] for i in range(3)]
    tiny.pack(tmp_path / "VOCdevkit", tmp_path / "VOCtrainval_11-May-2012.tar", "VOCdevkit")
    for root in (tmp_path, tmp_path / "VOCtrainval_11-May-2012.tar"):
        packed = DATAMODULES["VOC"](str(root)).benchmark("test")
        for i in range(3):
            for key in ("image", "mask"):
                assert np.array_equal(packed[i][key], items[i][key])


@pytest.mark.parametrize("labels", ["json", "mat", "png"])
@pytest.mark.parametrize("space", ["context60", "context59", "context60_official", "context59_official"])
def test_context_from_all_its_label_files(labels: str, space: str, tmp_path: Path) -> None:
    options = tiny.make_context(tmp_path, labels)
    vocabulary = Vocabulary.load(space)
    assert vocabulary.label_ids is not None
    outside = 0 if "60" in space else 255
    for i, got in enumerate(masks(DATAMODULES["Context"](**options, vocabulary=space).benchmark("test"))):
        raw = tiny.context_values(i)
        expected = np.vectorize(lambda value: vocabulary.label_ids.get(value, outside))(raw)
        if space == "context60":
            names = {2: "aeroplane", 9: "bag", 284: "person", 416: "train", 458: "wood"}
            for value in set(np.unique(raw).tolist()) & set(names):
                assert vocabulary.names[expected[raw == value][0]] == names[value]
        assert np.array_equal(got, expected)


def test_context_is_converted_once(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZEROLABEL_CACHE", str(tmp_path / "cache"))  # found by content: another test may have made it
    options = tiny.make_context(tmp_path)
    data = DATAMODULES["Context"](**options)
    data.prepare_data()
    assert capsys.readouterr().out.count("converting") >= 1
    data.prepare_data()
    assert "converting" not in capsys.readouterr().out
    (tmp_path / "VOCdevkit" / "VOC2010" / "ImageSets" / "Main" / "val.txt").unlink()
    assert len(data.benchmark("test")) == 3  # the JSON's own split
    (tmp_path / "trainval_merged.json").write_text('{"images": []}')
    with pytest.raises(UserError, match=r"trainval_merged\.json' is not the Detail API's"):
        DATAMODULES["Context"](**options).benchmark("test")


@pytest.mark.parametrize("archives", [False, True])
def test_coco_label_spaces(archives: bool, tmp_path: Path) -> None:
    options = tiny.make_coco(tmp_path)
    if archives:
        tiny.pack(tmp_path / "val2017", tmp_path / "val2017.zip", "val2017")
        tiny.pack(tmp_path / "stuffthingmaps", tmp_path / "stuffthingmaps_trainval2017.zip", ".")
    else:
        converted = tmp_path / "stuffthingmaps" / "val2017" / f"{tiny.COCO_NAMES[0]}_labelTrainIds.png"
        converted.write_bytes(converted.with_name(f"{tiny.COCO_NAMES[0]}.png").read_bytes())
    name_of = {0: "person", 90: None, 255: None, 168: "tree", 89: "toothbrush", 1: "bicycle", 123: "grass", 33: "frisbee"}
    for space in ("coco_object", "coco_stuff171", "coco_unseen15"):
        data = DATAMODULES["COCO"](**options, vocabulary=space)
        names = data.vocabulary.names
        for i, got in enumerate(masks(data.benchmark("test"))):
            for value in np.unique(tiny.coco_values(i)).tolist():
                inside = set(got[tiny.coco_values(i) == value].tolist())
                rest = 0 if space == "coco_object" else 255
                assert inside == {names.index(name_of[value]) if name_of.get(value) in names else rest}, (space, value)
    coarse = DATAMODULES["COCO"](**options, vocabulary="coco_stuff27")
    labels = masks(coarse.benchmark("test"))
    assert coarse.vocabulary.names[labels[0][0, 0]] == "person-things"
    assert coarse.vocabulary.names[labels[1][0, 0]] == "plant-stuff"


def test_a_list_of_pictures_restricts_the_split(tmp_path: Path) -> None:
    options = tiny.make_coco(tmp_path)
    (tmp_path / "curated.txt").write_text(f"{tiny.COCO_NAMES[2]}\n{tiny.COCO_NAMES[0]}\n")
    dataset = DATAMODULES["COCO"](**options, listing=str(tmp_path / "curated.txt")).benchmark("test")
    assert [dataset[i]["name"] for i in range(len(dataset))] == [tiny.COCO_NAMES[2], tiny.COCO_NAMES[0]]


def test_coco_objects_from_instances(tmp_path: Path) -> None:
    """A person's box under a smaller dog's polygon; a crowd lies below both."""
    tiny.picture(tmp_path / "val2017", "000000000139", (40, 50))
    crowd = np.zeros((40, 50), np.uint8, "F")
    crowd[:, :20] = 1
    code = rle.encode(crowd)
    uncompressed = {"size": [40, 50], "counts": [0, 800, 1200]}  # column by column: 20 columns of 40
    assert np.array_equal(rle.decode(rle.frPyObjects(uncompressed, 40, 50)), crowd)
    annotations = [
        {"category_id": 18, "iscrowd": 0, "area": 100, "segmentation": [[10, 10, 20, 10, 20, 20, 10, 20]]},
        {"category_id": 1, "iscrowd": 0, "area": 400, "segmentation": [[5, 5, 25, 5, 25, 25, 5, 25]]},
        {"category_id": 1, "iscrowd": 1, "area": int(rle.area(code)), "segmentation": uncompressed},
    ]
    content = {
        "images": [{"id": 139, "file_name": "000000000139.jpg", "height": 40, "width": 50}],
        "annotations": [a | {"id": i, "image_id": 139, "bbox": []} for i, a in enumerate(annotations)],
        "categories": [{"id": 1, "name": "person"}, {"id": 18, "name": "dog"}],
    }
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "instances_val2017.json").write_text(json.dumps(content))
    labels = masks(DATAMODULES["COCO"](str(tmp_path), labels="instances").benchmark("test"))[0]
    person, dog = (Vocabulary.load("coco_object").names.index(name) for name in ("person", "dog"))
    assert labels[15, 15] == dog
    assert labels[7, 23] == person
    assert labels[35, 10] == person
    assert labels[35, 45] == 0
    assert (labels == dog).sum() == 100


@needs_shared
@pytest.mark.parametrize(
    ("source", "space"), [("panoptic", "coco_object"), ("panoptic", "coco_stuff27"), ("instances", "coco_object")]
)
def test_real_coco_labels_equal_an_independent_reading(source: str, space: str) -> None:
    """Names, not numbers: each segment's class is looked up by the name that COCO's own JSON gives it."""
    root = SHARED / "real" / "coco"
    data = DATAMODULES["COCO"](str(root), vocabulary=space, labels=source)
    dataset = data.benchmark("test")
    assert len(dataset) == 40
    content = json.loads((root / "annotations" / f"{source}_val2017.json").read_text())
    categories = {c["id"]: c for c in content["categories"]}
    spelled = {"raw-material": "rawmaterial"}

    def train_id(category: dict[str, Any]) -> int:
        if space == "coco_object":
            return data.vocabulary.names.index(category["name"]) if category.get("isthing", 1) else 0
        group = spelled.get(category["supercategory"], category["supercategory"]).removesuffix("-stuff")
        return data.vocabulary.names.index(f"{group}-{'things' if category['isthing'] else 'stuff'}")

    for i in range(40):
        item = dataset[i]
        if source == "panoptic":
            annotation = next(a for a in content["annotations"] if a["file_name"] == f"{item['name']}.png")
            rgb = np.asarray(Image.open(root / "annotations" / "panoptic_val2017" / f"{item['name']}.png")).astype(int)
            expected = np.full(rgb.shape[:2], 0 if space == "coco_object" else 255)
            for segment in annotation["segments_info"]:
                inside = (rgb[..., 0] + 256 * rgb[..., 1] + 65536 * rgb[..., 2]) == segment["id"]
                expected[inside] = train_id(categories[segment["category_id"]])
            assert np.array_equal(item["mask"].numpy(), expected)
        else:
            drawn: dict[int, np.ndarray] = {}
            height, width = item["mask"].shape
            for a in content["annotations"]:
                if a["image_id"] == int(item["name"]):
                    shape = a["segmentation"]
                    code = rle.frPyObjects(shape, height, width)
                    inside = rle.decode(rle.merge(code) if isinstance(shape, list) else code) > 0
                    own = train_id(categories[a["category_id"]])
                    drawn[own] = drawn.get(own, np.zeros((height, width), bool)) | inside
            layers = sum(drawn.values()) if drawn else np.zeros((height, width), int)
            assert np.array_equal(item["mask"].numpy() == 0, layers == 0)
            for own, inside in drawn.items():  # where one class alone lies
                assert (item["mask"].numpy()[inside & (layers == 1)] == own).all()


@needs_shared
def test_merged_panoptic_classes_keep_their_coarse_class() -> None:
    content = json.loads((SHARED / "real" / "coco" / "annotations" / "panoptic_val2017.json").read_text())
    values = panoptic_values(content["categories"])
    assert len(values) == 133
    stuff, coarse = Vocabulary.load("coco_stuff171"), Vocabulary.load("coco_stuff27")
    assert stuff.label_ids is not None
    assert coarse.label_ids is not None
    for category in content["categories"]:
        name = stuff.names[stuff.label_ids[values[category["id"]]]]
        assert name.split("-")[0] == category["name"].removesuffix("-merged").split("-")[0]
        group = coarse.names[coarse.label_ids[values[category["id"]]]].rsplit("-", 1)[0]
        assert group == category["supercategory"].removesuffix("-stuff").replace("raw-material", "rawmaterial")


def test_ade_ignores_zero_and_counts_from_one(tmp_path: Path) -> None:
    options = tiny.make_ade(tmp_path)
    unpacked = DATAMODULES["ADE"](**options).benchmark("test")
    assert [unpacked.names[i] for i in range(3)] == tiny.ADE_NAMES
    for i, labels in enumerate(masks(unpacked)):
        assert np.array_equal(labels, tiny.blocks(tiny.SIZES[i], i, 149 - i, 255))
    tiny.pack(tmp_path / "ADEChallengeData2016", tmp_path / "ADEChallengeData2016.zip", "ADEChallengeData2016")
    packed = DATAMODULES["ADE"](**options).benchmark("test")
    assert "ADEChallengeData2016.zip:" in packed.pictures.path(tiny.ADE_NAMES[0])
    assert np.array_equal(masks(packed)[2], tiny.blocks(tiny.SIZES[2], 2, 147, 255))


FAULTS = {
    "absent root": ({"root": "/nowhere"}, lambda folder: None, r"'/nowhere' does not exist\. Set --data\.root"),
    "wrong layout": (
        {},
        lambda folder: (folder / "ImageSets").rename(folder / "Lists"),
        "does not hold VOCdevkit/VOC2012/ImageSets",
    ),
    "wrong split": ({"split": "vall"}, lambda folder: None, r"no split 'vall' in .*There: train, val"),
    "absent picture": (
        {},
        lambda folder: (folder / "JPEGImages" / "2007_000001.jpg").unlink(),
        r"val\.txt names '.*JPEGImages/2007_000001\.jpg', which is not there\. 'zerolabel prepare'",
    ),
    "absent mask": (
        {},
        lambda folder: [p.unlink() for p in (folder / "SegmentationClass").glob("*1.png")],
        r"names '.*SegmentationClass/2007_000001\.png', which is not there",
    ),
    "empty split": (
        {},
        lambda folder: tiny.listing(folder / "ImageSets/Segmentation/val.txt", []),
        r"val\.txt names no picture",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_download_is_refused_before_it_is_scored(fault: str, tmp_path: Path) -> None:
    options, damage, message = FAULTS[fault]
    made = tiny.make_voc(tmp_path)
    damage(tmp_path / "VOCdevkit" / "VOC2012")
    with pytest.raises(UserError, match=message):
        DATAMODULES["VOC"](**(made | options)).benchmark("test")


BROKEN_FILES = {
    "truncated picture": (
        "JPEGImages/{}.jpg",
        lambda p: p.write_bytes(p.read_bytes()[:800]),
        r"picture '.*2007_000001\.jpg' cannot be read",
    ),
    "truncated mask": (
        "SegmentationClass/{}.png",
        lambda p: p.write_bytes(p.read_bytes()[:-40]),
        r"mask '.*2007_000001\.png' cannot be read",
    ),
    "mask of colours": (
        "SegmentationClass/{}.png",
        lambda p: Image.open(p).convert("RGB").save(p),
        r"mask '.*2007_000001\.png' is a RGB picture; it must hold class indices",
    ),
    "mask of another size": (
        "SegmentationClass/{}.png",
        lambda p: Image.open(p).resize((7, 5)).save(p),
        r"mask '.*2007_000001\.png' is \(5, 7\) but its picture is \(90, 64\)",
    ),
    "value outside the label space": (
        "SegmentationClass/{}.png",
        lambda p: Image.fromarray(np.full((90, 64), 21, np.uint8)).save(p),
        r"mask '.*2007_000001\.png': mask value 21 is not in the label space 'voc21'",
    ),
}


@pytest.mark.parametrize("fault", BROKEN_FILES)
def test_a_broken_file_stops_the_test_by_name(fault: str, tmp_path: Path) -> None:
    pattern, damage, message = BROKEN_FILES[fault]
    options = tiny.make_voc(tmp_path)
    damage(tmp_path / "VOCdevkit" / "VOC2012" / pattern.format("2007_000001"))
    with pytest.raises(UserError, match=message):
        list(DATAMODULES["VOC"](**options, num_workers=0).test_dataloader())


def test_label_sources_that_cannot_tell_classes_apart_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="panoptic labels cannot tell the classes of 'coco_stuff171' apart; use stuffthingmaps"):
        DATAMODULES["COCO"](str(tmp_path), vocabulary="coco_stuff171", labels="panoptic")
    tiny.make_coco(tmp_path)
    with pytest.raises(UserError, match=r"no annotations/instances_val2017\.json and no annotations_trainval2017\.zip"):
        DATAMODULES["COCO"](str(tmp_path), labels="instances").benchmark("test")
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "instances_val2017.json").write_text('{"pictures": []}')
    with pytest.raises(UserError, match=r"instances_val2017\.json' is not COCO's own JSON"):
        DATAMODULES["COCO"](str(tmp_path), labels="instances").benchmark("test")
