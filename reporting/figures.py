"""The first pictures of a benchmark with their masks and label maps, for reports, run folders and loggers."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from PIL import Image
from torch import Tensor

from common.drawing import blend, side_by_side, with_legend

STEPS = 400  # points drawn of a curve; more are averaged


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
        found[index] = with_legend(Image.fromarray(side_by_side(parts)), labels, vocabulary)
    return found


def draw_curves(curves: dict[str, list[tuple[int, float]]]) -> bytes:
    """A PNG; what training logged on the left, what the validation found on the right, each over steps."""
    from matplotlib.figure import Figure

    kinds = [kind for kind in ("train", "val") if any(name.startswith(f"{kind}/") for name in curves)]
    figure = Figure(figsize=(4.4 * len(kinds), 2.8), layout="constrained", dpi=150)
    for kind, axes in zip(kinds, figure.subplots(1, len(kinds), squeeze=False)[0], strict=True):
        for name, curve in curves.items():
            if name.startswith(f"{kind}/"):
                steps, values = zip(*thinned(curve), strict=True)
                axes.plot(steps, values, label=name, linewidth=1.2, marker="o" if len(steps) < 20 else None, markersize=3)
        axes.set_xlabel("step")
        axes.legend(frameon=False, fontsize=8)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()


def thinned(curve: list[tuple[int, float]], points: int = STEPS) -> list[tuple[int, float]]:
    """At most so many points, each the mean of consecutive ones."""
    size = -(-len(curve) // points)
    groups = [curve[start : start + size] for start in range(0, len(curve), size)]
    return [(group[-1][0], sum(value for _, value in group) / len(group)) for group in groups]
