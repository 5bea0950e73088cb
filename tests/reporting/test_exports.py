"""``predict --export``: every format is read back, by the tool's own library where it is at hand, into its label map.

What the other tools' own readers say of the same files stands in docs/exports.md.
"""

import io
import json
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from pycocotools.coco import COCO
from scipy import ndimage

import cli
from common.errors import UserError
from evaluation import LabelMap, Vocabulary
from reporting.exports import FORMATS
from reporting.exports.polygons import outlines
from reporting.exports.records import AnnotatedPicture, Annotations
from reporting.exports.regions import RegionRules, regions_of

SCLIP = ["--config", "configs/training_free/sclip.yaml"]
WORDS = Vocabulary.parse('background; 猫, cat; "a" & <b>; कुत्ता')
EXACT = ["coco", "cvat", "fiftyone", "labelstudio", "voc"]
Labels = NDArray[np.uint8]

label_maps = st.tuples(st.integers(1, 9), st.integers(1, 9)).flatmap(
    lambda size: arrays(np.uint8, size, elements=st.sampled_from([0, 1, 2, 3, 255]))
)


def annotated(
    folder: Path,
    maps: list[Labels],
    words: Vocabulary = WORDS,
    rules: RegionRules | None = None,
    name: str = "below/{}.png",
) -> Annotations:
    """Label maps as ``predict`` keeps them; 255 in one of them is in no region."""
    rules = rules or RegionRules()
    lines = []
    folder.mkdir(parents=True, exist_ok=True)
    for index, labels in enumerate(maps):
        score = torch.where(torch.from_numpy(labels) == 255, 0.0, 0.5)
        found = LabelMap(torch.from_numpy(np.where(labels == 255, 0, labels)), score)
        sure = RegionRules(rules.instances, rules.min_area, 0.5)
        lines.append(AnnotatedPicture(index, name.format(index), labels.shape, regions_of(found, words, sure)).to_line())
        (folder / name.format(index)).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", labels.shape[::-1]).save(folder / name.format(index))
    kept = folder / "kept.jsonl"
    kept.write_text("\n".join(lines) + "\n" if lines else "")
    return Annotations((kept,), folder, words, rules.instances)


def written(annotations: Annotations, name: str) -> Path:
    folder = annotations.root / "exports" / name
    folder.mkdir(parents=True)
    FORMATS[name]().write(annotations, folder)
    return folder


def coco_masks(file: Path, size: tuple[int, int]) -> dict[int, NDArray[np.bool_]]:
    """By category, what pycocotools sees in the annotations of the first picture."""
    coco = COCO(file)
    masks = {k: np.zeros(size, bool) for k in coco.getCatIds()}
    for annotation in coco.imgToAnns[1]:
        mask = coco.annToMask(annotation).astype(bool)
        masks[annotation["category_id"]] |= mask
        if file.name == "instances.json":
            y, x = mask.nonzero()
            box = [x.min(), y.min(), x.max() - x.min() + 1, y.max() - y.min() + 1]
            assert (annotation["area"], annotation["bbox"], annotation["score"]) == (mask.sum(), box, 0.5)
    return masks


def from_coco(folder: Path, size: tuple[int, int]) -> Labels:
    labels = np.zeros(size, np.uint8)
    for k, mask in coco_masks(folder / "instances.json", size).items():
        labels[mask] = k
    return labels


def by_colour(png: bytes, labelmap: str) -> Labels:
    """As datumaro and CVAT do it: a class is a colour of labelmap.txt."""
    rgb = np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))
    entries = [line.split(":") for line in labelmap.splitlines() if not line.startswith("#")]
    assert {len(entry) for entry in entries} == {4}
    labels = np.full(rgb.shape[:2], 99, np.uint8)
    for value, (name, colour, _, _) in enumerate(entries):
        labels[(rgb == [int(c) for c in colour.split(",")]).all(-1)] = 255 if name == "ignored" else value
    return labels


def from_voc(folder: Path, size: tuple[int, int]) -> Labels:
    (name,) = (folder / "ImageSets" / "Segmentation" / "train.txt").read_text().splitlines()
    with Image.open(folder / "JPEGImages" / f"{name}.jpg") as picture:
        assert (picture.format, picture.size) == ("JPEG", size[::-1])
    mask = folder / "SegmentationClass" / f"{name}.png"
    labels = np.asarray(Image.open(mask))
    assert np.array_equal(by_colour(mask.read_bytes(), (folder / "labelmap.txt").read_text()), labels)
    return labels


def from_cvat(folder: Path, size: tuple[int, int]) -> Labels:
    with zipfile.ZipFile(folder / "segmentation_mask_1.1.zip") as archive:
        (name,) = archive.read("ImageSets/Segmentation/default.txt").decode().splitlines()
        return by_colour(archive.read(f"SegmentationClass/{name}.png"), archive.read("labelmap.txt").decode())


def from_fiftyone(folder: Path, size: tuple[int, int]) -> Labels:
    ((name, place),) = json.loads((folder / "data.json").read_text()).items()
    assert Image.open(place).size == size[::-1]
    targets = json.loads((folder / "mask_targets.json").read_text())
    assert list(targets.items()) == [(str(k), word) for k, word in enumerate(WORDS.names)]
    with Image.open((folder / "labels" / name).with_suffix(".png")) as image:
        assert image.mode == "L"
        return np.asarray(image)


def unpacked(data: list[int]) -> NDArray[np.uint8]:
    """@thi.ng/rle-pack, read as its documentation says."""
    bits = "".join(f"{byte:08b}" for byte in data)
    at = 0

    def read(count: int) -> int:
        nonlocal at
        at += count
        return int(bits[at - count : at], 2)

    total, width = read(32), read(5) + 1
    sizes = [read(4) + 1 for _ in range(4)]
    values: list[int] = []
    while len(values) < total:
        repeated = read(1)
        count = read(sizes[read(2)]) + 1
        values += [read(width)] * count if repeated else [read(width) for _ in range(count)]
    assert len(values) == total
    return np.array(values, np.uint8)


def from_labelstudio(folder: Path, size: tuple[int, int]) -> Labels:
    config = ElementTree.fromstring((folder / "label_config.xml").read_text())
    words = [label.attrib["value"] for label in config.iter("Label")]
    assert words == list(WORDS.names[1:])
    (task,) = json.loads((folder / "tasks.json").read_text())
    assert unquote(task["data"]["image"]) == "/data/local-files/?d=below/0.png"
    labels = np.zeros(size, np.uint8)
    for result in task["predictions"][0]["result"]:
        assert (result["original_height"], result["original_width"], result["score"]) == (*size, 0.5)
        channels = unpacked(result["value"]["rle"]).reshape(*size, 4)
        assert set(np.unique(channels)) <= {0, 255}
        labels[channels[..., 3] > 0] = 1 + words.index(result["value"]["brushlabels"][0])
    return labels


READERS: dict[str, Callable[[Path, tuple[int, int]], Labels]] = {
    "coco": from_coco,
    "voc": from_voc,
    "cvat": from_cvat,
    "fiftyone": from_fiftyone,
    "labelstudio": from_labelstudio,
}


def test_every_format_is_read_back() -> None:
    assert sorted(FORMATS) == sorted([*READERS, "labelme"])


@pytest.mark.parametrize("name", EXACT)
@settings(max_examples=15)
@given(labels=label_maps, instances=st.booleans())
def test_masks_come_back_exactly(name: str, labels: Labels, instances: bool, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Where a format has no value for what is not annotated, it comes back as background."""
    folder = tmp_path_factory.mktemp("export")
    read = READERS[name](written(annotated(folder, [labels], rules=RegionRules(instances)), name), labels.shape)
    wanted = labels if name in ("voc", "fiftyone") else np.where(labels == 255, 0, labels)
    assert np.array_equal(read, wanted)


@pytest.mark.parametrize("name", EXACT)
def test_an_empty_and_a_large_picture_come_back(name: str, tmp_path: Path) -> None:
    """Nothing but background; and runs longer than one number of the brush's 16 bits holds."""
    large = np.zeros((300, 200), np.uint8)
    large[10:290, 5:195] = 2
    large[100:200] = 1  # 20,000 pixels in one run of 80,000 values
    for folder, labels in ((tmp_path / "empty", np.zeros((3, 4), np.uint8)), (tmp_path / "large", large)):
        assert np.array_equal(READERS[name](written(annotated(folder, [labels]), name), labels.shape), labels)


def labelme_masks(file: Path, size: tuple[int, int]) -> dict[int, NDArray[np.bool_]]:
    """As labelme's ``shape_to_mask`` draws a polygon."""
    masks = {k: np.zeros(size, bool) for k in range(1, WORDS.num_classes)}
    content = json.loads(file.read_text())
    assert (content["imageHeight"], content["imageWidth"], content["imageData"]) == (*size, None)
    assert (file.parent / content["imagePath"]).is_file()
    for shape in content["shapes"]:
        canvas = Image.new("L", size[::-1])
        ImageDraw.Draw(canvas).polygon([tuple(point) for point in shape["points"]], outline=1, fill=1)
        masks[WORDS.names.index(shape["label"])] |= np.asarray(canvas) > 0
    return masks


def worst(masks: dict[int, NDArray[np.bool_]], labels: Labels) -> float:
    """The lowest IoU of a class that is there."""
    pairs = [(mask, labels == k) for k, mask in masks.items() if mask.any() or (labels == k).any()]
    return min([1.0, *((a & b).sum() / (a | b).sum() for a, b in pairs)])


def polygon_ious(folder: Path, labels: Labels) -> list[float]:
    annotations = annotated(folder, [labels])
    coco = coco_masks(written(annotations, "coco") / "polygons.json", labels.shape)
    labelme = labelme_masks(written(annotations, "labelme") / "below" / "0.json", labels.shape)
    return [worst(coco, labels), worst(labelme, labels)]


@settings(max_examples=30)
@given(labels=label_maps)
def test_polygons_come_back(labels: Labels, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Holes, single pixels, pixels that touch in a corner, pictures one pixel wide."""
    assert min(polygon_ious(tmp_path_factory.mktemp("polygons"), labels)) >= 0.98


def test_the_way_to_a_hole_does_not_cross_another(tmp_path: Path) -> None:
    """labelme counts the pixels that the way touches."""
    labels = np.ones((5, 9), np.uint8)
    labels[1:4, 2] = labels[2, 6] = 0
    assert polygon_ious(tmp_path, labels) == [1.0, 1.0]


def test_polygons_are_simplified_and_keep_their_holes(tmp_path: Path) -> None:
    """A disc with two holes and a class in one of them: IoU over .98 with a third of the corners."""
    y, x = np.mgrid[:160, :200]
    labels = (np.hypot(y - 80, x - 90) < 70).astype(np.uint8)
    labels[np.hypot(y - 60, x - 60) < 15] = 0
    labels[np.hypot(y - 100, x - 110) < 20] = 2
    ious = polygon_ious(tmp_path, labels)
    assert 0.98 <= min(ious) < 1
    (shape,) = json.loads((tmp_path / "exports/coco/polygons.json").read_text())["annotations"][0]["segmentation"]
    exact = sum(len(ring) for rings in outlines(labels == 1) for ring in rings)
    assert len(shape) / 2 < exact / 3
    assert labels[60, 60] == 0
    assert not coco_masks(tmp_path / "exports/coco/polygons.json", labels.shape)[1][60, 60]


@settings(max_examples=40)
@given(mask=arrays(np.bool_, st.tuples(st.integers(1, 12), st.integers(1, 12))))
def test_outlines_enclose_as_many_pixels_and_are_one_a_part(mask: NDArray[np.bool_]) -> None:
    found = outlines(mask)
    assert len(found) == ndimage.label(mask)[1]
    areas = [np.sum(r[:, 0] * np.roll(r[:, 1], -1) - r[:, 1] * np.roll(r[:, 0], -1)) / 2 for rings in found for r in rings]
    assert sum(areas) == mask.sum()


def test_regions_are_classes_or_parts_with_their_mean_probability() -> None:
    labels = torch.tensor([[1, 1, 0, 2], [0, 0, 1, 2], [1, 0, 0, 2]], dtype=torch.uint8)
    score = torch.tensor([[0.9, 0.7, 0.9, 0.3], [0.9, 0.9, 0.5, 0.9], [0.1, 0.9, 0.9, 0.9]])

    def found(**rules: float) -> list[tuple[int, int, tuple[int, ...], float | None]]:
        regions = regions_of(LabelMap(labels, score), WORDS, RegionRules(**rules))  # type: ignore[arg-type]
        return [(region.category, region.area, region.box, region.score) for region in regions]

    whole = [(0, 5, (0, 0, 3, 3), 0.9), (1, 4, (0, 0, 3, 3), 0.55), (2, 3, (3, 0, 1, 3), 0.7)]
    parts = [whole[0], (1, 3, (0, 0, 3, 2), 0.7), whole[2], (1, 1, (0, 2, 1, 1), 0.1)]
    assert found() == whole
    assert found(instances=True) == parts  # the first touches in a corner, and is one
    assert found(instances=True, min_area=3) == parts[:3]
    assert found(min_area=6) == whole[:1]  # the background is kept
    assert found(unsure=0.6) == [whole[0], (1, 2, (0, 0, 2, 1), 0.8), (2, 2, (3, 1, 1, 2), 0.9)]
    with pytest.raises(UserError, match="--unsure: this method gives no probabilities"):
        regions_of(LabelMap(labels, None), WORDS, RegionRules(unsure=0.6))


def test_objects_have_numbers_and_what_is_small_stays_in_the_class_mask(tmp_path: Path) -> None:
    """300 things, of which 254 have a number each."""
    labels = np.zeros((40, 60), np.uint8)
    labels[::2, ::4] = 1
    labels[0, 1] = 1  # the largest
    folder = written(annotated(tmp_path, [labels], rules=RegionRules(instances=True)), "voc")
    objects = np.asarray(Image.open(folder / "SegmentationObject" / "below" / "0.png"))
    assert (objects[0, :2] == 1).all()
    assert np.bincount(objects.ravel()).tolist() == [2400 - 301, 2, *[1] * 253, *[300 - 254]]
    assert np.array_equal(np.asarray(Image.open(folder / "SegmentationClass" / "below" / "0.png")), labels)
    without = written(annotated(tmp_path / "plain", [labels]), "voc")
    assert not (without / "SegmentationObject").exists()


def test_a_vocabulary_without_background_begins_at_one(tmp_path: Path) -> None:
    words = Vocabulary.parse("cat; dog")
    annotations = annotated(tmp_path, [np.array([[0, 1]], np.uint8)], words)
    folder = written(annotations, "voc")
    assert np.asarray(Image.open(folder / "SegmentationClass" / "below" / "0.png")).tolist() == [[1, 2]]
    assert [line.split(":")[0] for line in (folder / "labelmap.txt").read_text().splitlines()[1:]] == [
        "background",
        "cat",
        "dog",
    ]
    assert [c["name"] for c in json.loads((written(annotations, "coco") / "instances.json").read_text())["categories"]] == [
        "cat",
        "dog",
    ]


def test_pictures_are_linked_and_turned_ones_written(tmp_path: Path) -> None:
    """A training picture must lie as its mask does, whether or not its reader knows EXIF."""
    annotations = annotated(tmp_path, [np.zeros((20, 30), np.uint8)] * 2, name="{}.jpg")
    turned = Image.Exif()
    turned[274] = 6
    Image.new("RGB", (20, 30)).save(tmp_path / "1.jpg", exif=turned)
    (tmp_path / "0.jpg").chmod(0o640)
    folder = written(annotations, "voc") / "JPEGImages"
    assert (folder / "0.jpg").samefile(tmp_path / "0.jpg")
    assert (tmp_path / "0.jpg").stat().st_mode & 0o777 == 0o640
    assert Image.open(folder / "1.jpg").size == (30, 20)
    assert Image.open(tmp_path / "1.jpg").size == (20, 30)


def test_the_pictures_of_several_processes_come_in_order(tmp_path: Path) -> None:
    files = []
    for rank in range(3):
        files.append(tmp_path / f"{rank}.jsonl")
        lines = [AnnotatedPicture(i, f"{i}.png", (2, 2), ()).to_line() for i in range(rank, 8, 3)]
        files[-1].write_text("".join(f"{line}\n" for line in lines))
    assert [picture.index for picture in Annotations(tuple(files), tmp_path, WORDS, False)] == list(range(8))


@pytest.mark.parametrize("name", ["coco", "labelstudio"])
def test_memory_does_not_grow_with_the_pictures(name: str, tmp_path: Path) -> None:
    """Beside what Python collects now and then: a list of 500 pictures' annotations takes more."""
    labels = np.zeros((8, 8), np.uint8)
    labels[2:5, 2:6] = 1
    peaks = []
    for count in (10, 500):
        annotations = annotated(tmp_path / str(count), [labels] * count, name="{}.jpg")
        tracemalloc.start()
        written(annotations, name)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 300_000


@pytest.mark.parametrize(
    ("name", "classes", "pictures", "message"),
    [
        ("voc", "cat; a: b", [], "class 'a: b': labelmap.txt of VOC and CVAT cannot hold ':'"),
        ("cvat", "#1; cat", [], "class '#1': labelmap.txt of VOC and CVAT cannot hold"),
        ("cvat", "ignored; cat", [], "class 'ignored' means something else in labelmap.txt"),
        ("voc", "cat", ["a\nb.jpg"], "VOC's and CVAT's lists cannot hold a line's end"),
        (
            "labelme",
            "cat",
            ["x/a.jpg", "x/a.png"],
            "'x/a.jpg' and 'x/a.png' would be one entry of labelme. Rename one of them.",
        ),
        ("fiftyone", ";".join(map(str, range(255))), [], "255 classes beside the background; an export holds at most 254."),
    ],
)
def test_what_a_format_cannot_hold_is_said(name: str, classes: str, pictures: list[str], message: str) -> None:
    with pytest.raises(UserError) as error:
        FORMATS[name]().check(Vocabulary.parse(classes), pictures)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    FORMATS["coco"]().check(Vocabulary.parse("cat; a: b"), ["x/a.jpg", "x/a.png"])


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    for i in range(3):
        pixels = np.random.default_rng(i).integers(0, 256, (40, 60, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"holiday & {i}.png")
    return tmp_path


def predict(folder: Path, *options: str) -> int:
    words = ["--classes", "cat; 犬; background"]
    return cli.main(["predict", *SCLIP, "--images", str(folder), *words, "--output", str(folder), *options])


def test_predict_exports_and_never_segments_it(photographs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Into the folder of the pictures, twice; what is exported is the label map that predict wrote."""
    for _ in range(2):
        assert predict(photographs, "--export", "coco,voc", "--instances", "--min_area", "2") == 0
        rows = json.loads((photographs / "predictions.json").read_text())["pictures"]
        assert [row["picture"] for row in rows] == [f"holiday & {i}.png" for i in range(3)]
    assert f"exported to {photographs / 'exports' / 'voc'}" in capsys.readouterr().out
    assert sorted(path.name for path in (photographs / "exports").iterdir()) == ["coco", "voc"]
    assert not list(photographs.glob(".*"))
    to_train_ids = np.array([2, 0, 1])
    for row in rows:
        labels = np.asarray(Image.open(photographs / "labels" / f"{row['picture']}.png"))
        mask = np.asarray(Image.open(photographs / "exports/voc/SegmentationClass" / Path(row["picture"]).with_suffix(".png")))
        assert (mask != 255).any()
        assert np.array_equal(to_train_ids[mask[mask != 255]], labels[mask != 255])
    coco = COCO(photographs / "exports/coco/instances.json")
    assert [image["file_name"] for image in coco.dataset["images"]] == [row["picture"] for row in rows]


def test_an_export_that_fails_leaves_the_old_one(
    photographs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is full after the first file of the second format; the first format and all else is there."""
    kept = photographs / "exports" / "voc"
    kept.mkdir(parents=True)
    (kept / "mine").write_text("")

    def full(annotations: Annotations, folder: Path) -> None:
        (folder / "half").write_text("")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(FORMATS["voc"], "write", lambda self, annotations, folder: full(annotations, folder))
    assert predict(photographs, "--export", "coco,voc") == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line == f"error: cannot write '{kept}': No space left on device. Nothing was replaced."
    assert sorted(path.name for path in kept.iterdir()) == ["mine"]
    assert sorted(path.name for path in kept.parent.iterdir()) == ["coco", "voc"]
    assert len(json.loads((photographs / "predictions.json").read_text())["pictures"]) == 3
    assert not list(photographs.glob(".*"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--export", "coc"], "unknown export format 'coc'. Did you mean 'coco'? Known: coco, cvat, fiftyone, labelme, labels"),
        (["--export=coco,"], "unknown export format ''. Known: coco"),
        (["--export"], "--export needs a value."),
        (["--instances"], "--instances is of exports: add --export with some of coco, cvat"),
        (["--export=coco", "--instances=perhaps"], "unknown value of --instances 'perhaps'. Known: false, true."),
        (["--export=coco", "--min_area=-1"], "--min_area is -1; it must be a whole number from 0 up."),
        (["--export=coco", "--min_area=many"], "--min_area is 'many'; it must be a whole number from 0 up."),
        (["--export=coco", "--unsure=1.5"], "--unsure is 1.5; it must be a number from 0 to 1."),
        (["--export=coco", "--unsure=nan"], "--unsure is nan; it must be a number from 0 to 1."),
    ],
)
def test_wrong_options_get_one_line(
    options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict(tmp_path, *options) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith(f"error: {message}")
    assert not list(tmp_path.iterdir())


def test_a_class_that_a_format_cannot_hold_stops_before_the_first_picture(
    photographs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict(photographs, "--export=voc", "--classes=a: b; cat") == 2
    assert "class 'a: b': labelmap.txt" in capsys.readouterr().err
    assert not (photographs / "labels").exists()
