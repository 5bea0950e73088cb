"""Checkpoints of a fit: written whole or not at all, so that a run killed at any moment goes on as if nothing had happened."""

from __future__ import annotations

import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities.exceptions import SIGTERMException

from common.errors import UserError, in_one_line
from common.files import atomic_path
from common.stopping import let_a_step_end
from common.weights import read_checkpoint

EVERY = 100  # steps
WRITER = ("StreamWriter", "inline_container")  # torch's own, in its messages


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the old file and renames; Lightning passes through /tmp, often on another disk."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        try:
            with atomic_path(path) as temporary:
                torch.save(checkpoint, temporary)
        except (UserError, RuntimeError) as error:  # torch's writer turns a full disk into a RuntimeError
            if not isinstance(error, UserError) and not any(name in str(error) for name in WRITER):
                raise  # such as a killed loader process, of which torch tells at any moment
            free = shutil.disk_usage(Path(path).parent).free if Path(path).parent.is_dir() else 0
            raise UserError(
                f"checkpoint '{path}' could not be written, most often for want of space: {free / 1e6:.0f} MB are free "
                f"({in_one_line(error)}). Earlier ones are intact: free some space and start the same command with "
                "--ckpt_path last."
            ) from error


class PeriodicCheckpoint(ModelCheckpoint):
    """Keeps the newest checkpoints: every so many steps, at the end, and when the machine asks the run to stop (SIGTERM)."""

    def __init__(self, every_n_train_steps: int = EVERY, save_top_k: int = 2, dirpath: str | None = None) -> None:
        """``every_n_train_steps`` apart, ``save_top_k`` of them (-1: all); ``last.ckpt`` names the newest."""
        super().__init__(
            dirpath,
            "{step}",
            monitor="step",
            mode="max",
            save_last="link",
            save_top_k=save_top_k,
            every_n_train_steps=every_n_train_steps,
            save_on_train_epoch_end=False,
        )

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        super().on_train_start(trainer, pl_module)
        let_a_step_end(True)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        let_a_step_end(False)
        self._save(trainer)

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Only between two steps, where Lightning acts upon SIGTERM; any other moment may be in the middle of one."""
        let_a_step_end(False)
        if isinstance(exception, SIGTERMException):
            self._save(trainer)

    def _save(self, trainer: Any) -> None:
        if not self._should_skip_saving_checkpoint(trainer):
            candidates = self._monitor_candidates(trainer)
            self._save_topk_checkpoint(trainer, candidates)
            self._save_last_checkpoint(trainer, candidates)


def default_checkpoints() -> list[ModelCheckpoint]:
    """The newest, and the best of the validation where there is one (chosen by its labels: for looking at, not for ranking)."""
    best = ModelCheckpoint(filename="best-{step}", monitor="val/miou", mode="max", save_on_train_epoch_end=False)
    return [PeriodicCheckpoint(), best]


def last_checkpoint(root: Path, method: str | None = None) -> Path | None:
    """The newest checkpoint of the newest run below ``root``, of one method if its name is given; None without one.

    Raises:
        UserError: it is broken.
    """
    # a run's folder, or W&B's of a project and a run; files with a dot are what a killed run was writing
    places = ("*/checkpoints/[!.]*.ckpt", "*/*/checkpoints/[!.]*.ckpt")
    whole = {path.resolve() for place in places for path in root.glob(place)}
    written = {}
    for path in whole:
        with suppress(FileNotFoundError):  # a run that still goes on has replaced it
            written[path] = path.stat().st_mtime_ns
    found = sorted(written, key=lambda path: written[path])
    while found:
        newest = found.pop()
        try:
            checkpoint = read_checkpoint(newest, mmap=True, map_location="meta")
        except UserError as error:
            before = f"Give the one before it: --ckpt_path '{found[-1]}'." if found else "There is no other; start anew."
            raise UserError(f"{error} {before}") from error
        if method is None or class_of(checkpoint) in ("", method):
            return newest
    return None


def class_of(checkpoint: Any) -> str:
    """The method's class as the command line wrote it into a checkpoint; empty for one from Python."""
    written = checkpoint.get("hyper_parameters", {}) if isinstance(checkpoint, dict) else {}
    return str(written.get("_class_path", "")).rpartition(".")[2]
