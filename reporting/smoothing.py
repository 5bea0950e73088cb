"""``predict --smooth``: label maps of a film or of numbered frames without flicker, by an exponential mean of votes.

A frame's vote at a pixel is the probability of its class. With a memory m in [0, 1), frame t, class k and pixel x,

    v_t(k, x) = m v_{t-1}(k, x) + (1 - m) p_t(x) [k = label_t(x)],    v_0(k, x) = p_0(x) [k = label_0(x)],

and the label is the class of the largest v, its score that v. Where nothing changes neither does the label; with equal
probabilities a class that comes to stay wins after log(1/2) / log(m) frames. No motion is followed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from common.batch import IGNORED
from common.errors import UserError
from common.values import Within
from evaluation.label_map import LabelMap

Memory = Annotated[float, Within(0, 0.99)]


class Votes:
    """The votes (K, H, W) float32 of the frames so far; 4 K H W bytes.

    Args:
        memory: m above.
        classes: K.
    """

    def __init__(self, memory: Memory, classes: int) -> None:
        self.memory, self.classes = memory, classes
        self.votes: Tensor | None = None

    def add(self, found: LabelMap) -> LabelMap:
        """The frame's label map with what came before it; a frame of another size starts anew.

        Labels that are no class vote for none, and stand where no class has a vote.
        """
        labels = found.labels.long()
        new = torch.zeros(self.classes + 1, *labels.shape, device=labels.device)  # the last for what is no class
        probability = torch.ones_like(new[0]) if found.score is None else found.score.float()
        new.scatter_(0, labels.clamp(max=self.classes)[None], probability[None])
        new = new[: self.classes]
        if self.votes is None or self.votes.shape != new.shape:
            self.votes = new
        else:
            self.votes.mul_(self.memory).add_(new, alpha=1 - self.memory)
        best, label = self.votes.max(0)
        score = None if found.score is None else best
        return LabelMap(label.masked_fill(best == 0, IGNORED).to(torch.uint8), score, found.segments)


class Smooth(Callback):
    """Smooths what ``predict`` has found before other callbacks see it.

    Frames are those of a film, or the pictures of a folder in the order of their names.
    """

    def __init__(self, memory: Memory) -> None:
        self.memory = memory
        self.folder: Path | None = None
        self.votes: Votes | None = None

    def on_predict_start(self, trainer: Any, pl_module: Any) -> None:
        if trainer.world_size > 1:
            raise UserError("--smooth goes from frame to frame, which one process must see. Set --trainer.devices 1.")
        if trainer.datamodule.predicts == "tiles":
            raise UserError("--smooth goes from frame to frame, and tiles are none. Leave --smooth or --tile away.")

    def on_predict_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        for place, (name, found) in enumerate(zip(batch["name"], outputs, strict=True)):
            if found is None:  # a frame that could not be read
                continue
            if self.votes is None or Path(name).parent != self.folder:
                self.votes, self.folder = Votes(self.memory, pl_module.vocabulary.num_classes), Path(name).parent
            outputs[place] = self.votes.add(found)
