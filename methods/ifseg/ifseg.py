"""IFSeg (CVPR 2023): image-free segmentation via a vision-language model.

A random map of class words stands in for a picture: each cell is the embedding of a class name where OFA's encoder expects
a trunk feature. The decoder reads the encoder's own cells, one step behind, and learns to name the class of every cell.
At test time a picture's features take the cells' place. Section numbers are the paper's; where it is silent, the released
code decides.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from common.errors import UserError
from common.values import Natural
from evaluation.refine import average_neighbours
from methods.evaluation_steps import evaluating
from methods.ifseg.trained_ofa import TrainedOFA
from methods.ifseg.word_maps import draw_maps
from methods.map_loss import map_cross_entropy, upsampling
from methods.supervision import Supervision


class IFSeg(TrainedOFA):
    """Trains an OFA on word maps of the class names alone and, in its self-training variant, on its own label maps.

    The weights after the last step count: the reference keeps the best of its epochs on the *evaluation* pictures, which a
    method without labels cannot.

    Args:
        self_training_from: the step from which on it trains on the smoothed label maps that it gave unlabelled pictures
            (``--data.pictures``) at that step, instead of word maps (Table 4). INFERRED: the labelling model stays as it was
            then (labelling with the model of the moment collapsed with one of two seeds), without dropout, smoothed as in
            section 3.4; the paper's appendix, which says more, was not available. Null: never.
        select_on_labels: keeps the weights of the best validation instead of the last, as the reference does. This uses
            labels, so the result is ranked with the oracles; it needs ``--trainer.limit_val_batches``.
        options: as of :class:`methods.ifseg.trained_ofa.TrainedOFA`.
    """

    sees = Supervision.NAMES

    def __init__(self, self_training_from: Natural | None = None, select_on_labels: bool = False, **options: Any) -> None:
        super().__init__(**options)
        self.self_training_from, self.select_on_labels = self_training_from, select_on_labels
        self.sees = Supervision.NAMES if self_training_from is None else Supervision.PICTURES
        if select_on_labels:
            self.sees = Supervision.SELECTION
        self.best: dict[str, Any] = {"miou": -1.0, "state": {}}
        # what labels pictures; a copy that follows in checkpoints
        self.labeller = None if self_training_from is None else copy.deepcopy(self.ofa).requires_grad_(False)

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if stage == "fit" and self.select_on_labels and not self.trainer.limit_val_batches:
            raise UserError(
                "select_on_labels keeps the weights of the best validation, and with trainer.limit_val_batches 0 there is "
                "none. Set it to 1.0."
            )

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        if self.labeller is not None and self.global_step >= (self.self_training_from or 0):
            if self.global_step == self.self_training_from:
                self.labeller.load_state_dict(self.ofa.state_dict())
            loss = self._self_training_loss(batch["pictures"]["image"])
        else:
            loss = self._image_free_loss(batch.get("maps", batch))
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def _image_free_loss(self, maps: dict[str, Tensor]) -> Tensor:
        """Sections 3.2 and 3.3."""
        config, words = self.ofa.config, len(self.class_embeddings)
        cells = self.class_embeddings[draw_maps(maps, words, config.grid)]
        logits_BLQ = self.name_cells(self.ofa.encode_map(cells, self.source)).float()
        logits = logits_BLQ.transpose(1, 2).unflatten(2, (config.grid, config.grid))
        return map_cross_entropy(logits, draw_maps(maps, words, config.grid * config.stride))

    def _self_training_loss(self, images: Tensor) -> Tensor:
        logits, features = self.score_with_features(images)
        return map_cross_entropy(logits.float(), self.own_labels(features))

    @torch.no_grad()
    @evaluating
    def own_labels(self, features: Tensor) -> Tensor:
        """Label maps (B, H, W) of trunk features by the labelling model, smoothed among similar cells."""
        assert self.labeller is not None
        scores = self.name_cells(self.labeller.encode_features(features, self.source), self.labeller)
        scores = scores.transpose(1, 2).unflatten(2, features.shape[2:]).float()
        decision = self.protocol.decision
        smoothed = average_neighbours(scores.softmax(1), features.float(), decision.neighbours, decision.neighbour_steps)
        up, across = (upsampling(n, n * self.ofa.config.stride).to(scores) for n in features.shape[2:])
        return (up @ smoothed @ across.T).argmax(1)

    def on_validation_epoch_end(self) -> None:
        super().on_validation_epoch_end()
        miou = float(self.trainer.callback_metrics["val/miou"])
        if self.select_on_labels and not self.trainer.sanity_checking and miou > self.best["miou"]:
            self.best = {"miou": miou, "state": {name: value.detach().clone() for name, value in self.state_dict().items()}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self.best["state"]:
            if self.global_step >= self.trainer.estimated_stepping_batches:  # the last: none goes on from it
                checkpoint["state_dict"] = dict(self.best["state"])
            else:
                checkpoint["best"] = self.best
        super().on_save_checkpoint(checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        self.best = checkpoint.get("best", self.best)

    def on_train_end(self) -> None:
        if self.best["state"]:
            self.load_state_dict(self.best["state"])
