"""The first pictures of a benchmark with their masks and label maps, for reports, run folders and loggers."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from evaluation.predictions import blend, with_legend

GAP = 4  # pixels between the parts of a panel


class KeepPanels(Callback):
    """Keeps the first pictures, their masks and label maps, under ``INDEX/picture``, ``INDEX/mask``, ``INDEX/prediction``."""

    def __init__(self, pictures: int) -> None:
        self.pictures, self.panels = pictures, dict[str, Tensor]()

    def on_test_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        fields = [batch[key] for key in ("image", "mask", "index")]
        for image, mask, index, result in zip(*fields, outputs["label_maps"], strict=True):
            if index < self.pictures:
                self.panels[f"{index}/picture"] = (image * 255 + 0.5).to(torch.uint8).cpu()
                self.panels[f"{index}/mask"] = mask.cpu()
                self.panels[f"{index}/prediction"] = result.labels.cpu()

    on_validation_batch_end = on_test_batch_end


def panel_images(panels: dict[str, Tensor], vocabulary: Any) -> dict[int, Image.Image]:
    """By index, the picture, its ground truth and its label map side by side, with a legend."""
    found = {}
    for index in sorted({int(key.partition("/")[0]) for key in panels}):
        picture = panels[f"{index}/picture"].permute(1, 2, 0).numpy()
        mask, labels = (panels[f"{index}/{kind}"].numpy() for kind in ("mask", "prediction"))
        parts = [picture, *(np.asarray(blend(picture, shown, vocabulary.palette)) for shown in (mask, labels))]
        found[index] = with_legend(Image.fromarray(_side_by_side(parts)), labels, vocabulary)
    return found


def _side_by_side(parts: list[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    gap = np.full((parts[0].shape[0], GAP, 3), 255, np.uint8)
    return np.concatenate([piece for part in parts for piece in (part, gap)][:-1], 1)
