"""The pictures on which a method does worst, kept small beside its result, so that a page can show where it fails."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from common.distributed import gathered, is_padding_sample
from evaluation.metrics import iou_of

KEPT = 10
LONGEST = 160  # pixels of the longer side: a look, not a measurement

Found = tuple[float, int, dict[str, Tensor]]  # the picture's own mIoU, its index, and what to show of it


class Worst:
    """Collects the pictures of lowest mIoU, each over the classes that its mask or its label map holds."""

    def __init__(self) -> None:
        self.found: list[Found] = []

    def look(self, metric: Any, batch: Any, label_maps: list[Any]) -> None:
        """Looks at a batch that the metric has just counted."""
        counted = metric.areas[-len(label_maps) :]
        fields = [batch[key] for key in ("image", "mask", "index")]
        for image, mask, index, result, areas in zip(*fields, label_maps, counted, strict=True):
            score = iou_of(areas[0].cpu()).nanmean().item()  # nan where nothing is counted: never below
            if not is_padding_sample(index) and (len(self.found) < KEPT or score < self.found[-1][0]) and score == score:
                parts = {"picture": (image * 255 + 0.5).to(torch.uint8), "mask": mask, "prediction": result.labels}
                small = {f"{index}/{kind}": thinned(part).cpu() for kind, part in parts.items()}
                self.found = lowest([*self.found, (score, int(index), small)])

    def panels(self) -> dict[str, Tensor]:
        """Of all processes, which must all ask: under ``INDEX/picture``, ``INDEX/mask``, ``INDEX/prediction``, worst first."""
        return {key: part for _, _, small in lowest(gathered(self.found)) for key, part in small.items()}


def lowest(found: list[Found]) -> list[Found]:
    """The first of them, worst first."""
    return sorted(found, key=lambda one: one[:2])[:KEPT]


def thinned(part: Tensor) -> Tensor:
    """(..., h, w) of every n-th row and column, so that no side is longer than :data:`LONGEST`."""
    step = -(-max(part.shape[-2:]) // LONGEST)
    return part[..., ::step, ::step].contiguous()


def worst_indices(areas: Tensor) -> list[tuple[int, float]]:
    """(index, mIoU) of the worst pictures, from per-picture areas (N, 3, K)."""
    scores = iou_of(areas).nanmean(-1).tolist()
    found = sorted((score, index) for index, score in enumerate(scores) if score == score)
    return [(index, score) for score, index in found[:KEPT]]
