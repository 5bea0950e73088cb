"""The only evaluation steps there are: label maps against masks, every image counted once, on one process or many."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from functools import wraps
from typing import Any

import lightning
import torch
from torch import Tensor

from common.batch import Batch
from common.distributed import is_padding_sample
from common.errors import UserError, about
from evaluation.label_map import LabelMap
from evaluation.metrics import NO_IMAGE, ConfusionMatrix
from evaluation.selective import RiskCoverage
from evaluation.vocabulary import Vocabulary


def evaluating(work: Callable[..., Any]) -> Callable[..., Any]:
    """Runs a method of a module in evaluation mode (no dropout), whatever mode it is in, and restores every part's mode."""

    @wraps(work)
    def run(module: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
        modes = [(part, part.training) for part in module.modules()]
        module.eval()
        try:
            return work(module, *args, **kwargs)
        finally:
            for part, training in modes:
                part.training = training

    return run


class EvaluationSteps(lightning.LightningModule):
    """What Lightning calls in ``validate``, ``test`` and ``predict``.

    Attributes:
        metric: counts of the evaluation that runs or ran last; None before there is a vocabulary.
        selective: the same by how sure the method was.
    """

    def __init__(self) -> None:
        super().__init__()
        self.metric: ConfusionMatrix | None = None
        self.selective: RiskCoverage | None = None

    @property
    @abstractmethod
    def vocabulary(self) -> Vocabulary:
        """What is asked."""

    @abstractmethod
    def label_maps(self, images: list[Tensor], with_score: bool = False) -> list[LabelMap]:
        """Label maps, each at its image's size, of images (3, H, W)."""

    def on_validation_epoch_start(self) -> None:
        self._reset()

    def on_test_epoch_start(self) -> None:
        self._reset()

    def validation_step(self, batch: Batch, batch_idx: int) -> dict[str, list[LabelMap]]:
        return {"label_maps": self._score(batch)}

    def test_step(self, batch: Batch, batch_idx: int) -> dict[str, list[LabelMap]]:
        """The label maps, for callbacks that show them."""
        return {"label_maps": self._score(batch)}

    def on_validation_epoch_end(self) -> None:
        self._log_metric("val")

    def on_test_epoch_end(self) -> None:
        self._log_metric("test")

    def predict_step(self, batch: Batch, batch_idx: int) -> list[LabelMap | None]:
        """Label maps with scores; None for an image that could not be read."""
        readable = [image for image, error in zip(batch["image"], batch["error"], strict=True) if not error]
        done = iter(self.label_maps(readable, with_score=True))
        return [None if error else next(done) for error in batch["error"]]

    @property
    def _metric(self) -> ConfusionMatrix:
        if self.metric is None:
            raise UserError("no vocabulary yet: call use_vocabulary('voc21') first.")
        return self.metric

    @property
    def _selective(self) -> RiskCoverage:
        assert self.selective is not None  # use_vocabulary makes both
        return self.selective

    def _reset(self) -> None:
        self._metric.reset()
        self._selective.reset()

    def _score(self, batch: Batch) -> list[LabelMap]:
        predicted: list[LabelMap] = self.label_maps(batch["image"], with_score=True)
        for map_, mask, name, index in zip(predicted, batch["mask"], batch["name"], batch["index"], strict=True):
            if is_padding_sample(index):
                mask, index = torch.full_like(mask, self.vocabulary.ignore_index), NO_IMAGE
            assert map_.score is not None
            with about(name):
                self._metric.update(map_.labels, self.vocabulary.named_only(mask), index)
            self._selective.update(map_.labels, map_.score, mask)
            map_.score = None  # counted; a batch of them is four times its label maps
        return predicted

    def _log_metric(self, stage: str) -> None:
        result = self._metric.result()
        self._assert_each_once(result["pictures"], stage)
        for name in ("miou", "pixel_accuracy", "frequency_weighted_iou"):
            self.log(f"{stage}/{name}", result[name].float(), rank_zero_only=True)
        self.log(f"{stage}/aurc", self._selective.compute()["aurc"].float(), rank_zero_only=True)

    def _assert_each_once(self, images: Tensor, stage: str) -> None:
        """Every image of the dataset was counted once; where only some batches were asked for, none twice."""
        loader: Any = self.trainer.val_dataloaders if stage == "val" else self.trainer.test_dataloaders
        batches = self.trainer.num_val_batches if stage == "val" else self.trainer.num_test_batches
        whole = sum(batches) == len(loader) and not self.trainer.sanity_checking
        expected = len(loader.dataset) if whole else len(images.unique())
        if len(images) != expected or len(images.unique()) != expected:
            raise RuntimeError(
                f"{len(images)} images were counted, {len(images.unique())} different, of {expected}. The loader must "
                "deal each image once; use DataModule.loader and leave use_distributed_sampler alone."
            )
