"""What the methods share that score all windows of a picture together."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from evaluation.inference import Inference
from evaluation.windows import WindowScores, resize_image, score_windows
from methods.second_tower import SecondTower


class OverAllWindows(SecondTower):
    """Base of such methods, whose two functions take the place of ``forward``; options as of :class:`SecondTower`."""

    @abstractmethod
    def read(self, windows: Tensor) -> Tensor:
        """What is read of each window alone, (M, C, h, w), of windows (M, 3, H, W) in [0, 1]."""

    @abstractmethod
    def together(self, windows: WindowScores) -> WindowScores:
        """All windows of a picture as read, with their scores (M, Q, h, w)."""

    def forward(self, images: Tensor) -> Tensor:
        """Each picture as one window."""
        read = self.read(images)
        whole = [(0, 0, images.shape[2], images.shape[3])]
        pictures = zip(read, images, strict=True)
        return torch.stack([self.together(WindowScores(one[None], whole, image)).scores[0] for one, image in pictures])

    @property
    def inference(self) -> Inference:
        return InferenceOverAllWindows(**vars(super().inference), read=self.read, together=self.together)


@dataclass(frozen=True, kw_only=True)
class InferenceOverAllWindows(Inference):
    """Inference whose windows are scored together.

    Attributes:
        read: see :meth:`OverAllWindows.read`.
        together: see :meth:`OverAllWindows.together`.
    """

    read: Callable[[Tensor], Tensor]
    together: Callable[[WindowScores], WindowScores]

    def _score(self, images: list[Tensor]) -> list[WindowScores]:
        windows = self.protocol.windows
        resized = [resize_image(image, windows) for image in images]
        found = map(self.together, score_windows(self.read, resized, windows, self.window_batch))
        return [replace(one, scores=self._decided(one.scores)) for one in found]

    def _decided(self, scores: Tensor) -> Tensor:
        """With what the protocol does in each window."""
        return replace(self, score=lambda _: scores, score_with_best=lambda _: (scores, None))._score_window(scores)
