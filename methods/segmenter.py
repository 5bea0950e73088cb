"""Segmenter: the one interface of all methods, and the only evaluation steps there are.

A method implements :meth:`Segmenter.embed_vocabulary` (what the class names become) and :meth:`Segmenter.forward`
(pictures -> scores of the words at the backbone's stride); a trained one also ``training_step`` and
``configure_optimizers``. Windows, upsampling, background, label map, metric and logging are here and in ``evaluation``.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from functools import wraps
from pathlib import Path
from typing import Any, ClassVar

import lightning
import numpy as np
import torch
from torch import Tensor

from common.batch import Batch, to_unit
from common.distributed import is_padding_sample
from common.errors import UserError
from common.randomness import run_seed
from evaluation.kept_scores import KeptScores
from evaluation.label_map import LabelMap, Scores, label_map
from evaluation.metrics import NO_IMAGE, ConfusionMatrix
from evaluation.protocol import Protocol
from evaluation.refine import average_neighbours
from evaluation.vocabulary import Vocabulary
from evaluation.windows import WindowScores, resize_image, score_windows


class Supervision(Enum):
    """What a method's own training was allowed to see (its pretrained backbone is named beside it)."""

    NOTHING = "nothing"
    NAMES = "class names"
    PICTURES = "unlabelled pictures"
    CAPTIONS = "pictures with captions"
    BOXES = "pictures with captions and boxes"
    SELECTION = "class names; labels choose the step (oracle)"
    MASKS = "masks (oracle)"


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


class Segmenter(lightning.LightningModule):
    """Base of all methods.

    Attributes:
        sees: what the method's training sees; a variant that sees more says so in its ``__init__``.
        scores: what :meth:`forward` gives, see :func:`evaluation.label_map.label_map`.
        figure: a picture of what training learnt from, shown in reports; None where there is none to show.

    Args:
        protocol: name of a preset; the benchmark's own values apply where the preset has some.
        protocol_values: single rules to change, such as ``{"temperature": 50}``.
        window_batch: windows scored at once; bounds the memory, does not change the result.
    """

    sees: Supervision = Supervision.NOTHING
    scores: ClassVar[Scores] = "cosine"
    figure: Path | None = None

    def __init__(self, protocol: str = "shapes", protocol_values: dict[str, Any] | None = None, window_batch: int = 64) -> None:
        super().__init__()
        self.protocol_name, self.protocol_values = protocol, protocol_values or {}
        self.window_batch = window_batch
        self.class_of_word: Tensor = torch.zeros(0, dtype=torch.int64)
        self.protocol = Protocol.preset(protocol, None, **self.protocol_values)  # fails early on a wrong name
        self._vocabulary: Vocabulary | None = None
        self.metric: ConfusionMatrix | None = None
        self.words: list[str] = []
        self.kept_scores: KeptScores | None = None

    # What a method implements ------------------------------------------------------------------------------------

    def embed_vocabulary(self, words: list[str]) -> None:
        """Prepares for the ``words`` to ask; ``self.class_of_word`` (Q,) says the class of each."""
        raise NotImplementedError

    def forward(self, images: Tensor) -> Tensor:
        """Scores (B, Q, h, w) of images (B, 3, H, W) in [0, 1]."""
        raise NotImplementedError

    def patch_features(self, images: Tensor) -> Tensor:
        """Features (B, C, h, w) by which cells are alike, on the scores' grid; for the protocol's ``neighbours``."""
        raise UserError(f"{type(self).__name__} has no features to find a cell's neighbours by; set refine to none or pamr.")

    # The shared rest ---------------------------------------------------------------------------------------------

    @property
    def vocabulary(self) -> Vocabulary:
        if self._vocabulary is None:
            raise UserError("no class names: give --data.classes, or call use_vocabulary(Vocabulary.load('voc21')) first.")
        return self._vocabulary

    def use_vocabulary(self, vocabulary: Vocabulary, protocol: Protocol | None = None) -> None:
        """Sets what is asked from now on; the protocol is the method's preset for that label space if not given."""
        protocol = protocol or Protocol.preset(self.protocol_name, vocabulary.name, **self.protocol_values)
        if vocabulary.background is None:
            protocol = protocol.without_background()
        self.protocol = protocol
        self._vocabulary = vocabulary.worded(protocol.wording)
        asks_background = protocol.background in ("words", "none")
        words, classes = self._vocabulary.asked(asks_background)
        if not words:
            raise UserError(f"'{vocabulary.name}' has nothing but background. Name at least one other class.")
        self.words, self.class_of_word = words, torch.tensor(classes, device=self.device)
        self.embed_vocabulary(words)
        self.metric = ConfusionMatrix(vocabulary.num_classes, vocabulary.ignore_index).to(self.device)

    def look(self, images: list[Tensor]) -> list[tuple[Tensor, WindowScores]]:
        """Every picture (3, H, W) as it is looked at (3, R, S), and the scores of its windows."""
        images = [to_unit(image) for image in images]
        return self._look(images) if self.kept_scores is None else self.kept_scores.look(images, self._look)

    @torch.inference_mode()
    @evaluating
    def _look(self, images: list[Tensor]) -> list[tuple[Tensor, WindowScores]]:
        resized = [resize_image(image, self.protocol) for image in images]
        return list(zip(resized, score_windows(self.score_window, resized, self.protocol, self.window_batch), strict=True))

    @torch.inference_mode()
    def segment(self, images: list[Tensor], with_score: bool = False) -> list[LabelMap]:
        """Label maps, each at its picture's size, of pictures (3, H, W), uint8 or in [0, 1], of any sizes."""
        background = self.vocabulary.background
        return [
            label_map(
                scores,
                self.class_of_word,
                (image.shape[1], image.shape[2]),
                self.protocol,
                background,
                "probability" if self.protocol.refine == "neighbours" else self.scores,
                picture=picture,
                with_score=with_score,
            )
            for (picture, scores), image in zip(self.look(images), images, strict=True)
        ]

    def score_window(self, images: Tensor) -> Tensor:
        """:meth:`forward`, smoothed among similar cells where the protocol says so."""
        scores: Tensor = self(images)
        if self.protocol.refine == "neighbours":
            temperature = self.protocol.temperature if self.scores == "cosine" else 1.0
            probabilities = scores if self.scores == "probability" else torch.softmax(temperature * scores, 1)
            features = self.patch_features(images)
            scores = average_neighbours(probabilities, features, self.protocol.neighbours, self.protocol.neighbour_steps)
        return scores

    def setup(self, stage: str) -> None:
        data = getattr(self.trainer, "datamodule", None)
        vocabulary = getattr(data, "vocabulary", None)
        if vocabulary is not None:
            self.use_vocabulary(vocabulary)
        elif stage != "fit":
            raise UserError(f"{type(data).__name__} brings no vocabulary; give a benchmark or --classes.")

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """The zero-label firewall; and what a step draws depends on its place alone, so that a run can go on anywhere."""
        if self.sees is not Supervision.MASKS and holds_mask(batch):
            raise UserError(f"a training batch of {type(self).__name__} holds a mask; no label may reach training.")
        place = [run_seed(), self.current_epoch, batch_idx, self.global_rank]
        torch.manual_seed(int(np.random.SeedSequence(place).generate_state(1, np.uint64)[0] >> 1))

    def on_validation_epoch_start(self) -> None:
        self._metric.reset()

    def on_test_epoch_start(self) -> None:
        self._metric.reset()

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
        """Label maps with scores; None for a picture that could not be read."""
        readable = [image for image, error in zip(batch["image"], batch["error"], strict=True) if not error]
        done = iter(self.segment(readable, with_score=True))
        return [None if error else next(done) for error in batch["error"]]

    @property
    def _metric(self) -> ConfusionMatrix:
        if self.metric is None:
            raise UserError("no vocabulary yet: call use_vocabulary(Vocabulary.load('voc21')) first.")
        return self.metric

    def _score(self, batch: Batch) -> list[LabelMap]:
        predicted = self.segment(batch["image"])
        for map_, mask, name, index in zip(predicted, batch["mask"], batch["name"], batch["index"], strict=True):
            if is_padding_sample(index):
                mask, index = torch.full_like(mask, self.vocabulary.ignore_index), NO_IMAGE
            try:
                self._metric.update(map_.labels, mask, index)
            except UserError as error:
                raise UserError(f"{name}: {error}") from error
        return predicted

    def _log_metric(self, stage: str) -> None:
        result = self._metric.result()
        self._assert_each_once(result["pictures"], stage)
        for name in ("miou", "pixel_accuracy", "frequency_weighted_iou"):
            self.log(f"{stage}/{name}", result[name].float(), rank_zero_only=True)

    def _assert_each_once(self, pictures: Tensor, stage: str) -> None:
        """Every picture of the dataset was counted once; where only some batches were asked for, none twice."""
        loader: Any = self.trainer.val_dataloaders if stage == "val" else self.trainer.test_dataloaders
        batches = self.trainer.num_val_batches if stage == "val" else self.trainer.num_test_batches
        whole = sum(batches) == len(loader) and not self.trainer.sanity_checking
        expected = len(loader.dataset) if whole else len(pictures.unique())
        if len(pictures) != expected or len(pictures.unique()) != expected:
            raise RuntimeError(
                f"{len(pictures)} pictures were counted, {len(pictures.unique())} different, of {expected}. The loader must "
                "deal each picture once; use DataModule.loader and leave use_distributed_sampler alone."
            )


def holds_mask(batch: Any) -> bool:
    """Whether a batch, or one of several inside it, has a field of masks."""
    if isinstance(batch, dict):
        return "mask" in batch or any(holds_mask(value) for value in batch.values())
    return isinstance(batch, list | tuple) and any(holds_mask(part) for part in batch)
