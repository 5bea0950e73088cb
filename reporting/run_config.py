"""A run's folder: configuration as run, command line, environment; and the same for W&B, where it is used."""

from __future__ import annotations

import json
import os
import sys
import time
import urllib.error
import urllib.request
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lightning.pytorch.cli import SaveConfigCallback

from common.errors import UserError
from common.files import atomic_path
from reporting.recorder import run_folder
from reporting.result import environment


class SaveRun(SaveConfigCallback):
    """Writes ``config_<subcommand>.yaml`` and ``environment.json``; a test never overwrites what the fit wrote."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs | {"save_to_log_dir": False})

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        self.folder = run_folder(trainer)  # asks the other processes
        super().setup(trainer, pl_module, stage)

    def save_config(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """On the first process."""
        subcommand = trainer.state.fn.value
        text = self.parser.dump(self.config, skip_none=False)
        method = {"sees": pl_module.sees_in_words, "protocol_hash": pl_module.protocol.hash}
        record = {"command": sys.argv, **environment(), **method}
        if self.folder is not None:
            with atomic_path(self.folder / f"config_{subcommand}.yaml") as path:
                path.write_text(text, encoding="utf-8")
            with atomic_path(self.folder / "environment.json") as path:
                path.write_text(json.dumps(record, indent=1), encoding="utf-8")
        for logger in trainer.loggers:
            kind = type(logger).__name__
            if kind == "WandbLogger":
                config = json.loads(self.parser.dump(self.config, skip_none=False, format="json"))
                logger.experiment.config.update(config | record, allow_val_change=True)
            elif kind == "TensorBoardLogger":
                logger.experiment.add_text("configuration", f"```yaml\n{text}\n```")
                logger.experiment.add_text("environment", f"```json\n{json.dumps(record, indent=1)}\n```")


def new_folder(root: Path, subcommand: str) -> str:
    """A name by the second that no run below ``root`` has."""
    name = f"{subcommand}-{time.strftime('%Y%m%d-%H%M%S')}"
    taken = sum(1 for _ in root.glob(f"{name}*"))
    return f"{name}-{taken + 1}" if taken else name


def prepare_wandb(options: Any, root: Path) -> None:
    """Puts W&B's files below ``root``, and lets it run offline where its server cannot be had.

    Raises:
        UserError: it is not installed.
    """
    if find_spec("wandb") is None:
        raise UserError("W&B is not installed: pip install wandb, or leave --trainer.logger away.")
    if options.save_dir == ".":
        options.save_dir = str(root)
    if options.offline or os.environ.get("WANDB_MODE", "online") != "online" or "LOCAL_RANK" in os.environ:
        return  # the first process decides, and those it starts take over its environment
    reason = _why_not_online()
    if reason:
        os.environ["WANDB_MODE"] = "offline"
        print(f"W&B runs offline: {reason}. Upload the run later: wandb sync {root}/wandb/offline-run-*", flush=True)


def _why_not_online() -> str | None:
    server = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")
    try:
        with urllib.request.urlopen(server, timeout=10):  # noqa: S310 (the user's own server)
            pass
    except urllib.error.HTTPError:
        pass  # it answers
    except (OSError, ValueError) as error:
        return f"{server} cannot be reached ({getattr(error, 'reason', error)})"
    import wandb

    if wandb.login(prompt=False):
        return None
    wandb.teardown()  # it read its mode for this login, and would not again
    return "nobody is logged in (wandb login, or WANDB_API_KEY)"
