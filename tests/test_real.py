"""Real VOC pictures of ``../shared`` through ``test``, against an independent computation."""

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import cli
from datamodules import Vocabulary
from evaluation import Protocol
from methods import METHODS
from tests.conftest import SHARED, needs_shared

VOC = SHARED / "real" / "VOCdevkit" / "VOC2012"
pytestmark = needs_shared


def naive_label_map(model: torch.nn.Module, image: np.ndarray, protocol: Protocol) -> np.ndarray:
    """SCLIP's evaluation written out plainly: a loop over windows, padding to full size, one argmax over everything."""
    import torch.nn.functional as F

    picture = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
    height, width = image.shape[:2]
    scale = min(protocol.short_side / min(height, width), 2048 / max(height, width))
    size = (int(height * scale + 0.5), int(width * scale + 0.5))
    picture = F.interpolate(picture, size, mode="bilinear", align_corners=False)
    total, visits = torch.zeros(1, len(model.class_of_word), *size), torch.zeros(1, 1, *size)
    crop, stride = protocol.crop, protocol.stride
    for i in range(max(size[0] - crop + stride - 1, 0) // stride + 1):
        for j in range(max(size[1] - crop + stride - 1, 0) // stride + 1):
            bottom, right = min(i * stride + crop, size[0]), min(j * stride + crop, size[1])
            top, left = max(bottom - crop, 0), max(right - crop, 0)
            scores = F.interpolate(model(picture[:, :, top:bottom, left:right]), (bottom - top, right - left), mode="bilinear")
            padding = (left, size[1] - right, top, size[0] - bottom)
            total += F.pad(scores, padding)
            visits += F.pad(torch.ones(1, 1, bottom - top, right - left), padding)
    logits = F.interpolate(total / visits, (height, width), mode="bilinear", align_corners=False)
    p = torch.softmax(logits[0] * protocol.temperature, 0)
    p = torch.stack([p[model.class_of_word == k].amax(0) for k in range(21)])
    one_hot = F.one_hot(p.argmax(0), 21)[..., 1:].sum((0, 1))
    p[1:] *= (one_hot > protocol.area_threshold * one_hot.sum())[:, None, None]
    labels = p.argmax(0)
    labels[p.amax(0) < protocol.background_value] = 0
    return labels.numpy()


def test_voc_through_test_equals_an_independent_computation(tmp_path: Path) -> None:
    count = 8
    options = [f"--data.root={SHARED / 'real'}", f"--data.limit={count}", "--data.num_workers=0", "--trainer.accelerator=cpu"]
    small = "--model.protocol_values={short_side: 128, crop: 64, stride: 32}"
    run = [f"--trainer.default_root_dir={tmp_path}", "--trainer.enable_progress_bar=false", "--model.protocol=sclip", small]
    assert cli.main(["test", "--config", "configs/training_free/sclip.yaml", "--data=VOC", *options, *run]) == 0
    metrics = json.loads(next(tmp_path.rglob("metrics.json")).read_text())

    model = METHODS["TrainingFree"]("sclip")
    protocol = Protocol.preset("sclip", "voc21", short_side=128, crop=64, stride=32)
    model.use_vocabulary(Vocabulary.load("voc21"), protocol)
    names = (VOC / "ImageSets" / "Segmentation" / "val.txt").read_text().split()[:count]
    inside, predicted, actual = (np.zeros(21) for _ in range(3))
    with torch.inference_mode():
        for name in names:
            labels = naive_label_map(model, np.asarray(Image.open(VOC / "JPEGImages" / f"{name}.jpg").convert("RGB")), protocol)
            target = np.asarray(Image.open(VOC / "SegmentationClass" / f"{name}.png"))
            for k in range(21):
                inside[k] += ((labels == k) & (target == k)).sum()
                predicted[k] += ((labels == k) & (target != 255)).sum()
                actual[k] += (target == k).sum()
    with np.errstate(invalid="ignore"):
        miou = np.nanmean(inside / (predicted + actual - inside))
    assert metrics["pictures"] == count
    assert metrics["protocol"]["hash"] == protocol.hash
    np.testing.assert_allclose(metrics["miou"], miou, atol=2e-5)
    np.testing.assert_allclose(metrics["pixel_accuracy"], inside.sum() / actual.sum(), atol=2e-5)


def test_the_official_lists_are_read_whole() -> None:
    from datamodules import DATAMODULES

    data = DATAMODULES["VOC"](str(SHARED / "real"))
    assert len(data.benchmark("test")) == 72
    item = data.benchmark("test")[0]
    target = np.asarray(Image.open(VOC / "SegmentationClass" / f"{item['name']}.png"))
    assert np.array_equal(item["mask"].numpy(), target)
