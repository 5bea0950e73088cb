"""A run's folder: configuration as run, command line, environment; and the same for W&B, where it is used."""

from __future__ import annotations

import json
import sys
from typing import Any

from lightning.pytorch.cli import SaveConfigCallback

from evaluation.cells import environment
from evaluation.results import run_folder
from zerolabel_common import atomic_path


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
        record = {"command": sys.argv, **environment()}
        if self.folder is not None:
            with atomic_path(self.folder / f"config_{subcommand}.yaml") as path:
                path.write_text(text, encoding="utf-8")
            with atomic_path(self.folder / "environment.json") as path:
                path.write_text(json.dumps(record, indent=1), encoding="utf-8")
        for logger in trainer.loggers:
            if type(logger).__name__ == "WandbLogger":
                config = json.loads(self.parser.dump(self.config, skip_none=False, format="json"))
                method = {"sees": pl_module.sees.value, "protocol_hash": pl_module.protocol.hash}
                logger.experiment.config.update(config | record | method, allow_val_change=True)
