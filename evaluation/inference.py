"""Inference: images of any sizes to label maps under a protocol; the one path of test, predict and a notebook.

Image -> resize -> windows -> the method's scores -> merge -> decision -> label map.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from common.batch import to_unit
from evaluation.kept_scores import KeptScores
from evaluation.label_map import LabelMap, Scores, label_map
from evaluation.protocol import Protocol
from evaluation.refine import average_neighbours
from evaluation.windows import WindowScores, resize_image, score_windows


@dataclass(frozen=True)
class Inference:
    """What it takes to segment an image.

    Attributes:
        protocol: the rules.
        class_of_word: (Q,) train id of each word.
        background: train id of the background class, None without one.
        scores: what ``score`` gives, see :func:`evaluation.label_map.label_map`.
        score: windows (B, 3, H, W) in [0, 1] -> scores (B, Q, h, w).
        score_with_features: windows -> the scores and the features (B, C, h, w) by which patches are alike.
        window_batch: windows scored at once.
        kept: scores of images that were seen before.
    """

    protocol: Protocol
    class_of_word: Tensor
    background: int | None
    scores: Scores
    score: Callable[[Tensor], Tensor]
    score_with_features: Callable[[Tensor], tuple[Tensor, Tensor]]
    window_batch: int
    kept: KeptScores | None = None

    @torch.inference_mode()
    def score_images(self, images: list[Tensor]) -> list[WindowScores]:
        """The scores of the windows of images (3, H, W), uint8 or in [0, 1]."""
        images = [to_unit(image) for image in images]
        return self._score(images) if self.kept is None else self.kept.score_images(images, self._score)

    @torch.inference_mode()
    def label_maps(self, images: list[Tensor], with_score: bool = False) -> list[LabelMap]:
        """Label maps, each at its image's size."""
        decision = self.protocol.decision
        kind: Scores = "probability" if decision.refine == "neighbours" else self.scores
        return [
            label_map(scored, self.class_of_word, (image.shape[1], image.shape[2]), decision, self.background, kind, with_score)
            for scored, image in zip(self.score_images(images), images, strict=True)
        ]

    def _score(self, images: list[Tensor]) -> list[WindowScores]:
        resized = [resize_image(image, self.protocol.windows) for image in images]
        return score_windows(self._score_window, resized, self.protocol.windows, self.window_batch)

    def _score_window(self, windows: Tensor) -> Tensor:
        """The method's scores, smoothed among similar patches where the protocol says so."""
        decision = self.protocol.decision
        if decision.refine != "neighbours":
            return self.score(windows)
        scores, features = self.score_with_features(windows)
        temperature = decision.temperature if self.scores == "cosine" else 1.0
        probabilities = scores if self.scores == "probability" else torch.softmax(temperature * scores.float(), 1)
        return average_neighbours(probabilities, features, decision.neighbours, decision.neighbour_steps)
