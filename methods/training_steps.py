"""What Lightning calls around a method's own ``training_step``: the zero-label firewall, the step's draws, checkpoints."""

from __future__ import annotations

from typing import Any, NamedTuple

import lightning
import numpy as np
import torch
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from common.errors import UserError
from common.randomness import run_seed
from common.restorable import fill_in, leave_out
from methods.supervision import Supervision, holds_mask


class Exported(NamedTuple):
    """Tensors for a safetensors file, and texts beside them."""

    tensors: dict[str, Tensor]
    texts: dict[str, str] = {}  # noqa: RUF012 (never changed)


class TrainingSteps(lightning.LightningModule):
    """Base of all methods, those that learn and those that do not.

    Attributes:
        sees: what the method's training sees; a variant that sees more says so in its ``__init__``.
        tower_saw: labels that a pretrained backbone saw beyond captions; empty for none.
        figure: PNG of what training learnt from, shown in reports; None where there is none to show.
        images_per_step: of the training, over all processes and accumulated batches.
        read_options: options of the constructor that :meth:`as_read` alone follows; they do not change the training.
        pretrained_parts: submodules that the constructor loads from named weights; of them, checkpoints hold what is trained.
    """

    sees: Supervision = Supervision.NOTHING
    tower_saw: str = ""
    figure: bytes | None = None
    images_per_step: int = 1
    read_options: frozenset[str] = frozenset()
    pretrained_parts: tuple[str, ...] = ()
    frozen_hash: str | None = None  # of the others of their weights, once a checkpoint has asked

    @property
    def sees_in_words(self) -> str:
        """For tables: what the training saw, and the labels that the backbone saw before."""
        return f"{self.sees.value}, its tower {self.tower_saw}" if self.tower_saw else self.sees.value

    def prepare_fit(self, images: Any, workers: int) -> None:
        """What comes before training, such as embedding all images once.

        Args:
            images: the training images, by (epoch, index); see :class:`methods.per_image.StillImages`.
            workers: loader processes to read them with.
        """

    def export(self) -> dict[str, Exported]:
        """What training leaves behind beside checkpoints, by file name, written into the run's folder at its end."""
        return {}

    def as_read(self, trained: dict[str, Tensor]) -> dict[str, Tensor]:
        """What is used of trained weights (a whole state); checkpoints hold them as they were trained."""
        return trained

    def setup(self, stage: str) -> None:
        if stage == "fit":
            data: Any = getattr(self.trainer, "datamodule", None)
            per_process = getattr(data, "train_batch_size", 1)
            self.images_per_step = per_process * self.trainer.world_size * self.trainer.accumulate_grad_batches

    def on_fit_start(self) -> None:
        if type(self).prepare_fit is not TrainingSteps.prepare_fit:
            data: Any = self.trainer.datamodule  # type: ignore[attr-defined]  # Lightning sets it
            self.prepare_fit(data.train_dataloader().dataset, data.num_workers)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """The zero-label firewall; and what a step draws depends on its place alone, so that a run can go on anywhere."""
        if self.sees is not Supervision.MASKS and holds_mask(batch):
            raise UserError(f"a training batch of {type(self).__name__} holds a mask; no label may reach training.")
        place = [run_seed(), self.current_epoch, batch_idx, self.global_rank]
        torch.manual_seed(int(np.random.SeedSequence(place).generate_state(1, np.uint64)[0] >> 1))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        leave_out(self, checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        fill_in(self, checkpoint)
        if self._trainer is None or self._trainer.state.fn != TrainerFn.FITTING:  # a run that goes on takes them as trained
            checkpoint["state_dict"] = self.as_read(checkpoint["state_dict"])

    def on_fit_end(self) -> None:
        """The model in memory becomes what its checkpoint would be read as."""
        if self.read_options:
            self.load_state_dict(self.as_read(self.state_dict()))
