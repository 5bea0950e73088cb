"""Methods made as the command line says, with what an earlier training left of them."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import common.compat  # noqa: F401  (must come before lightning)

from commands.lightning import ZeroLabelCLI, build
from commands.sources import checkpoint_of
from common.errors import UserError, in_one_line
from common.weights import read_checkpoint


def build_trained(arguments: list[str], checkpoint: str | None) -> ZeroLabelCLI:
    """What a command line names, with the weights of a checkpoint, whose hyper-parameters the command line wins over.

    Raises:
        UserError: it cannot be made, or the checkpoint is none of it.
    """
    with tempfile.TemporaryDirectory() as folder:
        trained = checkpoint_of(["--ckpt_path", checkpoint], Path(folder)) if checkpoint is not None else None
        cli = build(arguments, trained=trained)
    if checkpoint is not None:
        load_checkpoint(cli.model, checkpoint)
    return cli


def load_checkpoint(model: Any, path: str) -> None:
    """Loads weights only; raises UserError for the checkpoint of another model."""
    try:
        checkpoint = read_checkpoint(path)
        model.on_load_checkpoint(checkpoint)
        model.load_state_dict(checkpoint["state_dict"])
    except (RuntimeError, KeyError) as error:
        raise UserError(f"checkpoint '{path}' is of another model: {in_one_line(error)}") from error
