"""How much of a picture, or of all frames of a film, each class covers, and how sure the method is of it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


class Shares:
    """Sums over label maps that come one after the other.

    Args:
        names: of the classes, by train id.
    """

    def __init__(self, names: tuple[str, ...]) -> None:
        self.names = names
        self.counts, self.scores = np.zeros(len(names), np.int64), np.zeros(len(names))
        self.pixels, self.scored = 0, True

    def add(self, labels: NDArray[np.uint8], score: NDArray[np.float32] | None) -> Shares:
        """Adds a label map (H, W), whose 255 counts for no class, and the probabilities of its pixels; returns itself."""
        flat, classes = labels.ravel(), len(self.names)
        self.counts += np.bincount(flat, minlength=classes)[:classes]
        self.pixels += flat.size
        self.scored = self.scored and score is not None
        if score is not None:
            self.scores += np.bincount(flat, score.ravel(), classes)[:classes]
        return self

    def summary(self) -> dict[str, dict[str, float]]:
        """Per class found: its share of all pixels and their mean probability, largest first."""
        return {
            self.names[k]: {"area": round(self.counts[k] / self.pixels, 4)}
            | ({"score": round(self.scores[k] / self.counts[k], 4)} if self.scored else {})
            for k in np.argsort(-self.counts, kind="stable")
            if self.counts[k]
        }

    def row(self) -> dict[str, Any]:
        """For ``predictions.json``: ``classes``, and the share ``none`` of what is none of them, where there is some."""
        none = round(1 - int(self.counts.sum()) / self.pixels, 4)
        return {"classes": self.summary()} | ({"none": none} if none else {})
