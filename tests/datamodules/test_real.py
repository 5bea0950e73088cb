"""Real VOC and COCO pictures of ``../shared`` through ``test``, against an independent computation."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import cli
from datamodules import DATAMODULES
from evaluation import Protocol, Vocabulary
from methods import METHODS
from tests.conftest import SHARED, needs_shared

VOC = SHARED / "real" / "VOCdevkit" / "VOC2012"
COCO = SHARED / "real" / "coco"
pytestmark = needs_shared


def naive_label_map(model: torch.nn.Module, image: np.ndarray, protocol: Protocol) -> np.ndarray:
    """SCLIP's evaluation written out plainly: a loop over windows, padding to full size, one argmax over everything."""
    import torch.nn.functional as F

    picture = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
    height, width = image.shape[:2]
    scale = min(protocol.windows.short_side / min(height, width), 2048 / max(height, width))
    size = (int(height * scale + 0.5), int(width * scale + 0.5))
    picture = F.interpolate(picture, size, mode="bilinear", align_corners=False)
    total, visits = torch.zeros(1, len(model.class_of_word), *size), torch.zeros(1, 1, *size)
    crop, stride = protocol.windows.crop, protocol.windows.stride
    for i in range(max(size[0] - crop + stride - 1, 0) // stride + 1):
        for j in range(max(size[1] - crop + stride - 1, 0) // stride + 1):
            bottom, right = min(i * stride + crop, size[0]), min(j * stride + crop, size[1])
            top, left = max(bottom - crop, 0), max(right - crop, 0)
            scores = F.interpolate(model(picture[:, :, top:bottom, left:right]), (bottom - top, right - left), mode="bilinear")
            padding = (left, size[1] - right, top, size[0] - bottom)
            total += F.pad(scores, padding)
            visits += F.pad(torch.ones(1, 1, bottom - top, right - left), padding)
    logits = F.interpolate(total / visits, (height, width), mode="bilinear", align_corners=False)
    p = torch.softmax(logits[0] * protocol.decision.temperature, 0)
    classes = int(model.class_of_word.max()) + 1
    p = torch.stack([p[model.class_of_word == k].amax(0) for k in range(classes)])
    one_hot = F.one_hot(p.argmax(0), classes)[..., 1:].sum((0, 1))
    p[1:] *= (
        (one_hot > protocol.decision.area_threshold * one_hot.sum())[:, None, None] if protocol.decision.area_threshold else 1
    )
    labels = p.argmax(0)
    labels[p.amax(0) < protocol.decision.background_value] = 0
    return labels.numpy()


SMALL = {"short_side": 128, "crop": 64, "stride": 32}


def voc_target(name: str) -> np.ndarray:
    return np.asarray(Image.open(VOC / "SegmentationClass" / f"{name}.png"))


def coco_target(name: str) -> np.ndarray:
    """Panoptic segments, painted by category name; void and stuff are background."""
    names = Vocabulary.load("coco_object").names
    content = json.loads((COCO / "annotations" / "panoptic_val2017.json").read_text())
    category = {c["id"]: c["name"] for c in content["categories"]}
    rgb = np.asarray(Image.open(COCO / "annotations" / "panoptic_val2017" / f"{name}.png")).astype(int)
    target = np.zeros(rgb.shape[:2], int)
    for segment in next(a for a in content["annotations"] if a["file_name"] == f"{name}.png")["segments_info"]:
        inside = (rgb * [1, 256, 65536]).sum(-1) == segment["id"]
        target[inside] = names.index(category[segment["category_id"]]) if category[segment["category_id"]] in names else 0
    return target


@pytest.mark.parametrize(
    ("data", "space", "pictures", "target", "count"),
    [
        (["VOC", f"--data.root={SHARED / 'real'}"], "voc21", VOC / "JPEGImages", voc_target, 8),
        (["COCO", f"--data.root={COCO}", "--data.labels=panoptic"], "coco_object", COCO / "val2017", coco_target, 5),
    ],
)
def test_a_real_benchmark_through_test_equals_an_independent_computation(
    data: list[str], space: str, pictures: Path, target: Any, count: int, tmp_path: Path
) -> None:
    name, *rest = data
    options = [f"--data={name}", *rest, f"--data.limit={count}", "--data.num_workers=0", "--trainer.accelerator=cpu"]
    rules = ["--model.protocol=sclip", f"--model.protocol_values={json.dumps(SMALL)}"]
    run = [f"--trainer.default_root_dir={tmp_path}", "--trainer.enable_progress_bar=false", *rules]
    assert cli.main(["test", "--config", "configs/training_free/sclip.yaml", *options, *run]) == 0
    metrics = json.loads(next(tmp_path.rglob("metrics.json")).read_text())

    model = METHODS["TrainingFree"]("sclip")
    protocol = Protocol.preset("sclip", space, **SMALL)
    model.use_vocabulary(Vocabulary.load(space), protocol)
    classes = model.vocabulary.num_classes
    named = (VOC / "ImageSets" / "Segmentation" / "val.txt").read_text().split()
    if name == "COCO":
        named = sorted(path.stem for path in (COCO / "annotations" / "panoptic_val2017").iterdir())
    inside, predicted, actual = (np.zeros(classes) for _ in range(3))
    with torch.inference_mode():
        for picture in named[:count]:
            labels = naive_label_map(model, np.asarray(Image.open(pictures / f"{picture}.jpg").convert("RGB")), protocol)
            truth = target(picture)
            for k in range(classes):
                inside[k] += ((labels == k) & (truth == k)).sum()
                predicted[k] += ((labels == k) & (truth != 255)).sum()
                actual[k] += (truth == k).sum()
    with np.errstate(invalid="ignore"):
        miou = np.nanmean(inside / (predicted + actual - inside))
    assert metrics["pictures"] == count
    assert metrics["data"].startswith(f"{name}, first {count}, val")
    assert metrics["protocol_hash"] == model.protocol.hash
    np.testing.assert_allclose(metrics["miou"], miou, atol=2e-5)
    np.testing.assert_allclose(metrics["pixel_accuracy"], inside.sum() / actual.sum(), atol=2e-5)


def test_every_real_voc_mask_is_read_as_it_is_stored() -> None:
    dataset: Any = DATAMODULES["VOC"](str(SHARED / "real")).benchmark("test")
    assert len(dataset) == 72
    for item in (dataset[i] for i in range(72)):
        assert np.array_equal(item["mask"].numpy(), voc_target(item["name"]))
        stored = np.asarray(Image.open(VOC / "JPEGImages" / f"{item['name']}.jpg"))
        assert np.array_equal(item["image"].permute(1, 2, 0).numpy(), stored)
