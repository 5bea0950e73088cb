"""Our label map against upsampling all classes and then argmax: 171 classes, 28x28 scores, a 512x640 picture."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.timing import Ratio, paired, peak_memory
from evaluation import Protocol, label_map
from evaluation.windows import WindowScores

CLASSES, SIZE = 171, (512, 640)


def run() -> Iterator[Ratio]:
    protocol = Protocol(crop=None, stride=None, temperature=40)
    scores = torch.randn(1, CLASSES, 28, 35)
    windows = WindowScores(scores, [(0, 0, 448, 560)], (448, 560))
    class_of_word = torch.arange(CLASSES)

    def ours() -> Tensor:
        return label_map(windows, class_of_word, SIZE, protocol).labels

    def upsample_then_argmax() -> Tensor:
        return F.interpolate(scores * 40, SIZE, mode="bilinear", align_corners=False).argmax(1)[0]

    def with_probability() -> object:
        return label_map(windows, class_of_word, SIZE, protocol, with_score=True)

    def softmax_then_max() -> object:
        return F.interpolate(scores * 40, SIZE, mode="bilinear", align_corners=False).softmax(1).max(1)

    assert torch.equal(ours(), upsample_then_argmax().to(torch.uint8))
    yield peak_memory("memory of a label map against upsample-then-argmax", ours, upsample_then_argmax)
    yield paired("time of a label map against upsample-then-argmax", ours, upsample_then_argmax)
    yield paired("the same with probabilities, against softmax-then-max", with_probability, softmax_then_max)
