"""Mean score contrast (ICLIP, CLIP Surgery): whether similarity maps are brighter on their class than off it."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torchmetrics import Metric

from common.distributed import is_padding_sample
from common.synonyms import best_of_class


class MeanScoreContrast(Metric):
    """Mean over pictures and their classes of (mean of the map on the class) - (mean off it); negative: inverted.

    A map is a class's scores over the picture, brought to 0 ... 1. INFERRED from the name and the published signs. It uses
    masks, needs no threshold, and is a diagnostic beside mIoU.
    """

    full_state_update = False
    total: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, scores: Tensor, mask: Tensor) -> None:
        """Adds one picture: scores (K, H, W) by train id on any scale, mask (H, W) of train ids or 255."""
        for k in mask[mask < len(scores)].unique().tolist():
            on = mask == k
            off = ~on & (mask < len(scores))
            if off.any() and scores[k].isfinite().all():
                least, most = scores[k].aminmax()
                map_ = (scores[k] - least).double() / (most - least).clamp_min(1e-6)
                self.total += map_[on].mean() - map_[off].mean()
                self.count += 1

    def compute(self) -> Tensor:
        return self.total / self.count


class ScoreContrast(Callback):
    """Logs ``test/mean_score_contrast`` of a method's scores; it looks at every picture a second time.

    ``zerolabel test ... --trainer.callbacks+=reporting.contrast.ScoreContrast``, or ``contrast: true`` in a comparison.
    """

    def __init__(self) -> None:
        self.metric = MeanScoreContrast()

    def on_test_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        self.metric = MeanScoreContrast().to(pl_module.device)

    @torch.inference_mode()
    def on_test_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        class_of_score, classes = pl_module.inference.class_of_score, pl_module.vocabulary.num_classes
        for windows, mask, index in zip(pl_module.score_images(batch["image"]), batch["mask"], batch["index"], strict=True):
            if not is_padding_sample(index):
                words = windows.merge(slice(None), mask.shape)
                self.metric.update(_best_word(words, class_of_score, classes), mask)

    def on_test_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        pl_module.log("test/mean_score_contrast", self.metric.compute().float(), rank_zero_only=True)


def _best_word(words_QHW: Tensor, class_of_word: Tensor, classes: int) -> Tensor:
    """(K, H, W): each class's best word, minus infinity for a class that is not asked."""
    scores = words_QHW.new_full((classes, *words_QHW.shape[1:]), -torch.inf)
    asked = class_of_word.to(scores.device)
    scores[asked.unique()] = best_of_class(words_QHW[None], asked)[0]
    return scores
