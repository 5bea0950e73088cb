"""Inference: images of any sizes to label maps under a protocol; the one path of test, predict and a notebook.

Image -> resize -> windows -> the method's scores -> merge -> decision -> label map.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from common.batch import to_unit
from evaluation.graph import GraphScores, least_side, window_lines
from evaluation.kept_scores import KeptScores
from evaluation.label_map import LabelMap, Scores, label_map
from evaluation.protocol import Protocol
from evaluation.refine import average_neighbours
from evaluation.windows import WindowScores, is_direct, resize_image, score_windows


@dataclass(frozen=True)
class Inference:
    """What it takes to segment an image.

    Attributes:
        protocol: the rules.
        class_of_word: (Q,) train id of each word.
        background: train id of the background class, None without one.
        scores: what ``score`` gives, see :func:`evaluation.label_map.label_map`.
        score: windows (B, 3, H, W) in [0, 1] -> scores (B, Q, h, w).
        score_with_best: windows -> the scores and, where it is not their maximum, the best probability (B,) of each window.
        score_with_features: windows -> the scores and the features (B, C, h, w) by which patches are alike.
        window_batch: windows scored at once.
        kept: scores of images that were seen before.
    """

    protocol: Protocol
    class_of_word: Tensor
    background: int | None
    scores: Scores
    score: Callable[[Tensor], Tensor]
    score_with_best: Callable[[Tensor], tuple[Tensor, Tensor | None]]
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
        decided = (self.protocol.decision, self.background, self.kind, with_score)
        return [
            label_map(scored, self.class_of_score, (image.shape[1], image.shape[2]), *decided)
            for scored, image in zip(self.score_images(images), images, strict=True)
        ]

    def label_map_in_graph(self, image: Tensor) -> LabelMap:
        """The label map of one image, (3, H, W) as above, whose size may be a symbol of :mod:`torch.export`."""
        resized = resize_image(to_unit(image), self.protocol.windows)
        height, width = resized.shape[1], resized.shape[2]
        for side in (height, width):
            torch._check(side >= least_side(self.protocol.windows))
        lines = window_lines(height, width, self.protocol.windows)
        scores = self._score_window(resized[None] if lines is None else lines.cut(resized))
        windows = GraphScores(scores, [], resized, is_direct(self.protocol.windows), lines)
        decided = (self.protocol.decision, self.background, self.kind)
        return label_map(windows, self.class_of_score, (image.shape[1], image.shape[2]), *decided)

    @property
    def kind(self) -> Scores:
        """What the scores of windows are once the protocol has acted on them."""
        decision = self.protocol.decision
        acts = self.background_channel or decision.refine == "neighbours" or decision.activation == "sigmoid"
        return "probability" if acts else self.scores

    @property
    def class_of_score(self) -> Tensor:
        """Train ids of the scores' channels: of the words and, where each window gets one, of the background's channel."""
        if not self.background_channel:
            return self.class_of_word
        return torch.cat([self.class_of_word, self.class_of_word.new_tensor([self.background])])

    @property
    def background_channel(self) -> bool:
        """Whether each window gets a channel of the background."""
        return self.background is not None and self.protocol.decision.background == "threshold"

    def _score(self, images: list[Tensor]) -> list[WindowScores]:
        resized = [resize_image(image, self.protocol.windows) for image in images]
        return score_windows(self._score_window, resized, self.protocol.windows, self.window_batch)

    def _score_window(self, windows: Tensor) -> Tensor:
        """The method's scores, with all that the protocol does in each window."""
        decision = self.protocol.decision
        best = None
        if decision.refine == "neighbours":
            scores, features = self.score_with_features(windows)
            probabilities = self._probabilities(scores)
            probabilities = average_neighbours(probabilities, features, decision.neighbours, decision.neighbour_steps)
        elif self.kind == self.scores and not self.background_channel:
            return self.score(windows)
        else:
            scores, best = self.score_with_best(windows)
            probabilities = self._probabilities(scores)
        if not self.background_channel:
            return probabilities
        return with_background(probabilities, decision.background_value, best)

    def _probabilities(self, scores: Tensor) -> Tensor:
        """(B, Q, h, w) of the scores."""
        decision = self.protocol.decision
        if self.scores == "probability":
            return scores
        scaled = decision.temperature * scores.float() if self.scores == "cosine" else scores.float()
        return scaled.softmax(1) if decision.activation == "softmax" else (scaled + decision.logit_bias).sigmoid()


def with_background(probabilities: Tensor, threshold: float, best: Tensor | None) -> Tensor:
    """(B, Q + 1, h, w): the probabilities and a channel that is 1 where none of them reaches the threshold (GroupViT).

    Args:
        probabilities: (B, Q, h, w) of one window each.
        threshold: lowered to the best probability of a window, so that not everything is background.
        best: (B,) that probability, where it belongs to no pixel (a group without patches); None for the pixels' own.
    """
    best = probabilities.amax((1, 2, 3)) if best is None else best
    limit = best.clamp(max=threshold)[:, None, None, None]
    return torch.cat([probabilities, (probabilities.amax(1, keepdim=True) < limit).to(probabilities)], 1)
