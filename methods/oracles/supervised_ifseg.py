"""IFSeg that learns from pictures and their masks (the last row of its Table 4): what the same network knows where it is told.

Its words, frozen parts, decoder and optimiser are those of :class:`methods.IFSeg`; the features of a picture stand where the
image-free method has word maps. INFERRED: the loss counts labelled pixels alone, and all asked classes have masks, where the
paper adds those of the classes that are seen in training.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from common.synonyms import best_of_class
from methods.ifseg.trained_ofa import TrainedOFA
from methods.map_loss import position_among, summed_cross_entropy
from methods.supervision import Supervision


class SupervisedIFSeg(TrainedOFA):
    """See the module; options as of :class:`methods.ifseg.trained_ofa.TrainedOFA`. It is an oracle, outside the ranking."""

    sees = Supervision.MASKS

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        logits = self(batch["image"]).float()
        wanted = position_among(self.class_of_word.unique(), batch["mask"].long())
        found = summed_cross_entropy(best_of_class(logits, self.class_of_word), wanted)
        loss = found.loss / max(found.pixels, 1)
        self.log("train/loss", loss.detach(), prog_bar=True)
        return loss
