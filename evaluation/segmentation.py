"""Segmentation: a label map with the image and the words it is of, for notebooks and scripts."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from common.drawing import label_image, tint, with_legend
from common.files import atomic_path
from evaluation.label_map import LabelMap
from evaluation.vocabulary import Vocabulary


@dataclass(repr=False, kw_only=True)
class Segmentation(LabelMap):
    """``labels`` (H, W) uint8 train ids and, if asked for, ``score`` (H, W), of an ``image`` (3, H, W) and a ``vocabulary``."""

    image: Tensor
    vocabulary: Vocabulary

    @property
    def shares(self) -> dict[str, float]:
        """Share of the image that each class found covers, largest first."""
        counts = np.bincount(self.labels.cpu().numpy().ravel(), minlength=self.vocabulary.num_classes)
        found = sorted(((n, k) for k, n in enumerate(counts.tolist()) if n), reverse=True)
        return {self.vocabulary.names[k]: n / self.labels.numel() for n, k in found}

    def overlay(self) -> Image.Image:
        """The image under its classes' colours, with a legend."""
        labels = self.labels.cpu().numpy()
        image = self.image if self.image.dtype.is_floating_point else self.image / 255
        pixels = (image.permute(1, 2, 0).cpu().numpy() * 255 + 0.5).astype(np.uint8)
        shown = tint(pixels, labels, self.vocabulary.palette, self.vocabulary.background)
        return with_legend(shown, labels, self.vocabulary)

    def save(self, path: Path | str) -> None:
        """Writes the label map as an indexed PNG whose values are train ids.

        Raises:
            UserError: the file cannot be written.
        """
        with atomic_path(path) as temporary:
            label_image(self.labels.cpu().numpy(), self.vocabulary.palette).save(temporary, format="PNG")

    def _repr_png_(self) -> bytes:
        """What a notebook shows."""
        file = io.BytesIO()
        self.overlay().save(file, format="PNG")
        return file.getvalue()

    def __repr__(self) -> str:
        height, width = self.labels.shape
        shares = ", ".join(f"{name} {share:.0%}" for name, share in self.shares.items())
        return f"Segmentation({height} x {width}: {shares})"
