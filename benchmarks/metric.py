"""Our confusion matrix against torchmetrics, one picture of 512x640 with 171 classes; the values agree."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torchmetrics.classification import MulticlassJaccardIndex

from benchmarks.timing import Ratio, paired
from evaluation import ConfusionMatrix

CLASSES = 171


def run() -> Iterator[Ratio]:
    prediction = torch.randint(CLASSES, (512, 640), dtype=torch.uint8)
    target = torch.randint(CLASSES, (512, 640), dtype=torch.uint8)
    target[:20] = 255
    wide_prediction, wide_target = prediction.long(), target.long()
    ours = ConfusionMatrix(CLASSES)
    rivals = {
        "torchmetrics JaccardIndex": MulticlassJaccardIndex(CLASSES, ignore_index=255),
        "torchmetrics JaccardIndex(validate_args=False)": MulticlassJaccardIndex(
            CLASSES, ignore_index=255, validate_args=False
        ),
    }
    for name, rival in rivals.items():
        yield paired(
            f"confusion matrix against {name}",
            lambda: ours.update(prediction, target),
            lambda rival=rival: rival.update(wide_prediction, wide_target),
            runs=21,
        )
        ours.reset()
        rival.reset()
        ours.update(prediction, target)
        rival.update(wide_prediction, wide_target)
        torch.testing.assert_close(ours.compute()["miou"].float(), rival.compute())
