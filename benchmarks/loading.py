"""Where the time of an evaluation goes, and what reading costs: archives against folders, a million names, bytes or floats.

Pictures are drawn at VOC's size (375 x 500, JPEGs of about 100 KB, as the real ones). The split is of one process on two
threads: decoding, ViT-B/16's forward (random weights, SCLIP's windows), label map and metric.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import common.compat  # noqa: F401  (must come before what imports torchvision)

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torchvision.datasets import ImageFolder

from benchmarks.timing import Ratio, paired, peak_memory, print_added_memory
from common.batch import to_unit
from datamodules import DATAMODULES
from datamodules.unlabeled import image_source
from evaluation.label_map import label_map
from evaluation.metrics import ConfusionMatrix
from evaluation.windows import resize_image, score_windows
from methods import METHODS
from tests.data import pack

PICTURES = 48
NAMES = 1_000_000
SIZE = (375, 500)


def make_voc(root: Path) -> None:
    """VOCdevkit/VOC2012 with photograph-like pictures: smooth shapes and grain."""
    folder = root / "VOCdevkit" / "VOC2012"
    for name in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (folder / name).mkdir(parents=True)
    rng = np.random.default_rng(0)
    names = [f"2007_{i:06d}" for i in range(PICTURES)]
    for name in names:
        coarse = torch.from_numpy(rng.random((1, 3, 12, 16), np.float32))
        smooth = F.interpolate(coarse, SIZE, mode="bicubic")[0].permute(1, 2, 0).numpy()
        pixels = (255 * smooth + rng.normal(0, 9, (*SIZE, 3))).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / "JPEGImages" / f"{name}.jpg", quality=92)
        Image.fromarray((smooth[..., 0] * 20).clip(0, 20).astype(np.uint8)).save(folder / "SegmentationClass" / f"{name}.png")
    (folder / "ImageSets" / "Segmentation" / "val.txt").write_text("\n".join(names))


def run() -> Iterator[Ratio | str]:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        make_voc(root)
        unpacked: Any = DATAMODULES["VOC"](str(root)).benchmark("test")
        size = np.mean([path.stat().st_size for path in (root / "VOCdevkit" / "VOC2012" / "JPEGImages").iterdir()])
        yield f"pictures of {SIZE[0]} x {SIZE[1]}, {size / 1024:.0f} KiB each"
        yield from archives(root)
        yield from split(unpacked)
        yield from million_names(root)


def archives(root: Path) -> Iterator[Ratio]:
    """Reading and decoding pictures and masks."""
    packed = {}
    for suffix in ("tar", "zip"):
        archive = root / suffix / f"VOC.{suffix}"
        archive.parent.mkdir()
        pack(root / "VOCdevkit", archive, "VOCdevkit", remove=False)
        packed[suffix] = _training(archive).dataset
    plain = _training(root / "VOCdevkit" / "VOC2012").dataset
    for suffix, source in packed.items():
        yield paired(f"pictures/s from a {suffix} against a folder", _read_all(source), _read_all(plain))

    def unpack_then_read() -> None:
        import tarfile

        with tempfile.TemporaryDirectory() as place, tarfile.open(root / "tar" / "VOC.tar") as file:
            file.extractall(place, filter="data")
            _read_all(_training(place).dataset)()

    yield paired("an epoch straight from a tar against unpacking it first", _read_all(packed["tar"]), unpack_then_read, runs=3)


def _training(images: str | Path) -> Any:
    return DATAMODULES["UnlabeledImages"](str(images), crop="none", train_batch_size=1).train_dataloader()


def _read_all(dataset: Any) -> Callable[[], object]:
    return lambda: [dataset[0, i]["image"].shape for i in range(PICTURES)]


def split(dataset: Any) -> Iterator[Ratio | str]:
    """One process; the loader of two workers alone; and what moving bytes instead of floats saves."""
    model: Any = METHODS["TrainingFree"]("sclip", clip="ViT-B-16", pretrained=None, protocol="sclip", window_batch=6)
    text = F.normalize(torch.randn(1000, 512), dim=-1)
    model.backbone.embed_text = lambda words, *_: text[: len(words)]
    model.use_vocabulary(dataset.vocabulary)
    items = [dataset[i] for i in range(PICTURES)]
    few = items[:4]
    model.segment([few[0]["image"]])  # warms up
    decode = _seconds(lambda: [dataset[i] for i in range(PICTURES)]) / PICTURES

    images = [item["image"] for item in few]
    forward = _seconds(lambda: [_scores(model, image) for image in images]) / len(few)
    scores = [_scores(model, image) for image in images]
    segmented: list[Any] = []
    merge = _seconds(lambda: segmented.extend(_label_map(model, *pair) for pair in zip(scores, images, strict=True))) / len(few)
    metric = ConfusionMatrix(21)
    count = _seconds(lambda: [metric.update(m.labels, i["mask"]) for m, i in zip(segmented, few, strict=True)]) / len(few)
    total = decode + forward + merge + count
    yield (
        f"per picture {1e3 * total:.0f} ms = decode {1e3 * decode:.1f} + resize, windows and ViT-B/16 {1e3 * forward:.0f} "
        f"+ label map {1e3 * merge:.1f} + metric {1e3 * count:.2f} ms: {1 / total:.2f} pictures/s end to end"
    )
    loader_rate = 1 / decode
    yield f"one loader worker decodes {loader_rate:.0f} pictures/s: {loader_rate * total:.0f} times what the model takes here"
    yield f"2,000 pictures/s on one GPU would need {2000 * decode:.0f} such workers"
    yield paired(
        "a batch of bytes against floats, worker to trainer", _loaded(items, floats=False), _loaded(items, floats=True), runs=3
    )


@torch.inference_mode()
def _scores(model: Any, image: torch.Tensor) -> torch.Tensor:
    resized = resize_image(to_unit(image), model.protocol.windows)
    return score_windows(model, [resized], model.protocol.windows, model.window_batch)[0]


@torch.inference_mode()
def _label_map(model: Any, scores: torch.Tensor, image: torch.Tensor) -> Any:
    size = (image.shape[1], image.shape[2])
    return label_map(scores, model.class_of_word, size, model.protocol.decision, model.vocabulary.background)


class _Kept(torch.utils.data.Dataset[Any]):
    """Decoded pictures, so that only the way from worker to trainer is timed."""

    def __init__(self, items: list[Any], floats: bool) -> None:
        self.items, self.floats = items, floats

    def __len__(self) -> int:
        return 4 * len(self.items)

    def __getitem__(self, index: int) -> torch.Tensor:
        image = self.items[index % len(self.items)]["image"]
        return image.float().div_(255) if self.floats else image.clone()


def _loaded(items: list[Any], floats: bool) -> Callable[[], object]:
    def load() -> int:
        return sum(len(batch) for batch in torch.utils.data.DataLoader(_Kept(items, floats), batch_size=8, num_workers=1))

    return load


def million_names(root: Path) -> Iterator[Ratio | str]:
    """Start-up on a list of a million files, and on a folder of 20,000, against torchvision's ImageFolder."""
    names = root / "million.txt"
    names.write_text("".join(f"part{i % 1000:03d}/{i:012d}.jpg\n" for i in range(NAMES)))
    os.environ["ZEROLABEL_BENCHMARK_LIST"] = str(names)
    seconds = _seconds(lambda: next(iter(_training(names).sampler)))
    yield f"start-up on a list of {NAMES:,} files, order of the first epoch drawn: {seconds:.2f} s"
    yield peak_memory(f"memory for {NAMES:,} names and their order, against a list of paths", "benchmarks.loading")
    folder = root / "folder"
    for i in range(20_000):
        (folder / f"part{i % 100:03d}").mkdir(parents=True, exist_ok=True) if i < 100 else None
        (folder / f"part{i % 100:03d}" / f"{i}.jpg").touch()
    yield paired(
        "listing a folder of 20,000 files against torchvision's ImageFolder",
        lambda: len(image_source(str(folder))),
        lambda: len(ImageFolder(str(folder))),
    )


def _seconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


if __name__ == "__main__":
    path = Path(os.environ["ZEROLABEL_BENCHMARK_LIST"])

    def ours() -> object:
        sampler = _training(path).sampler
        return sampler, next(iter(sampler))

    def rival() -> object:
        paths = [path.parent / line for line in path.read_text().splitlines()]
        return paths, torch.randperm(len(paths)).tolist()

    print_added_memory({"ours": ours, "rival": rival}[sys.argv[1]])
