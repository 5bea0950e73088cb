"""Our label map against upsampling all classes and then argmax: 171 classes, 28x35 scores, a 512x640 picture."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import common.compat  # noqa: F401  (must come before what imports torchvision)

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.timing import Ratio, paired, peak_memory, print_added_memory
from evaluation import label_map
from evaluation.rules import Decision
from evaluation.windows import WindowScores

CLASSES, SIZE = 171, (512, 640)
DECISION = Decision(temperature=40)
SCORES = torch.randn(1, CLASSES, 28, 35)
WINDOWS = WindowScores(SCORES, [(0, 0, 448, 560)], torch.zeros(3, 448, 560))
CLASS_OF_WORD = torch.arange(CLASSES)


def ours() -> Tensor:
    return label_map(WINDOWS, CLASS_OF_WORD, SIZE, DECISION).labels


def upsample_then_argmax() -> Tensor:
    return F.interpolate(SCORES, SIZE, mode="bilinear", align_corners=False).mul_(40).argmax(1)[0]


def with_probability() -> object:
    return label_map(WINDOWS, CLASS_OF_WORD, SIZE, DECISION, with_score=True)


def softmax_then_max() -> object:
    return F.interpolate(SCORES, SIZE, mode="bilinear", align_corners=False).mul_(40).softmax(1).max(1)


def run() -> Iterator[Ratio]:
    assert torch.equal(ours(), upsample_then_argmax().to(torch.uint8))
    yield peak_memory("memory of a label map against upsample-then-argmax", "benchmarks.label_map")
    yield paired("time of a label map against upsample-then-argmax", ours, upsample_then_argmax)
    yield paired("the same with probabilities, against softmax-then-max", with_probability, softmax_then_max)


if __name__ == "__main__":
    print_added_memory(ours if sys.argv[1] == "ours" else upsample_then_argmax)
