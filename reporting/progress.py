"""The progress of a fit: which method, which epoch of how many, which batch of the epoch."""

from __future__ import annotations

import math
from typing import Any

from lightning.pytorch.callbacks import RichProgressBar


class Progress(RichProgressBar):
    """Lightning's bar, with the method's name; also right where a fit ends or goes on in the middle of an epoch."""

    done = 0  # steps, when the epoch began or was gone on with

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        self.done = trainer.global_step
        super().on_train_epoch_start(trainer, pl_module)

    @property
    def steps_per_epoch(self) -> int | None:
        """None where no length says it."""
        batches = self.trainer.num_training_batches
        return None if math.isinf(batches) or not batches else math.ceil(batches / self.trainer.accumulate_grad_batches)

    @property
    def total_train_batches(self) -> int | float:
        """Of this epoch, which the last step may end early."""
        trainer, steps = self.trainer, self.steps_per_epoch
        if trainer.max_steps <= 0 or steps is None:
            return trainer.num_training_batches
        left = self.done % steps + trainer.max_steps - self.done
        return min(trainer.num_training_batches, left * trainer.accumulate_grad_batches)

    @property
    def total_predict_batches_current_dataloader(self) -> int | float:
        """Of what comes as a stream, such as a film, as many as its header promises."""
        expected = getattr(self.trainer.datamodule, "expected_batches", 0)  # type: ignore[attr-defined]  # Lightning sets it
        return expected or super().total_predict_batches_current_dataloader

    def _get_train_description(self, current_epoch: int) -> str:
        steps, name = self.steps_per_epoch, type(self.trainer.lightning_module).__name__
        if steps is None:
            return f"{name}, epoch {current_epoch + 1}"
        ends = [self.trainer.max_epochs or -1, math.ceil(self.trainer.max_steps / steps)]
        known = [end for end in ends if end > 0]
        return f"{name}, epoch {self.done // steps + 1}" + (f" of {min(known)}" if known else "")

    def get_metrics(self, trainer: Any, pl_module: Any) -> dict[str, Any]:
        """Without the logger's version, which is a folder's name here."""
        shown: dict[str, Any] = super().get_metrics(trainer, pl_module)
        shown.pop("v_num", None)
        return shown
