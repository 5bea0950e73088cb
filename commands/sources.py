"""Where options come from besides the command line: shipped configs, and the hyper-parameters of a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import yaml

from commands.help import CONFIG_OPTIONS
from common.arguments import option_pairs
from common.errors import UserError
from common.files import read_yaml, shipped
from common.weights import read_checkpoint

FILE_LOGGERS = ("CSVLogger", "TensorBoardLogger")
RUN_FOLDER = "(the run's folder)"  # where they write if nothing else is said


class Trained(NamedTuple):
    """What a checkpoint holds: the method's class, and its hyper-parameters in a config file."""

    checkpoint: str
    method: str
    config: str


def with_shipped_configs(arguments: list[str]) -> list[str]:
    """The arguments with every ``--config configs/...`` that is not here replaced by the shipped one.

    Raises:
        UserError: a config is no YAML.
    """
    found = []
    for before, argument in zip(["", *arguments], arguments, strict=False):
        name, equals, value = argument.partition("=")
        if before in CONFIG_OPTIONS:
            argument = _config(argument)
        elif equals and name in CONFIG_OPTIONS:
            argument = f"{name}={_config(value)}"
        found.append(argument)
    return found


def with_run_folder(arguments: list[str]) -> list[str]:
    """``--trainer.logger TensorBoardLogger`` alone writes where the run's other files are."""
    pairs = dict(option_pairs(arguments))
    name = pairs.get("--trainer.logger", "").rpartition(".")[2]
    if name in FILE_LOGGERS and "--trainer.logger.save_dir" not in pairs:
        return [*arguments, f"--trainer.logger.save_dir={RUN_FOLDER}"]
    return arguments


def _config(path: str) -> str:
    """Where the config lies; one that is there must be a YAML mapping."""
    path = shipped(path)
    if Path(path).is_file():
        read_yaml(path)
    return path


def checkpoint_of(options: list[str], folder: Path) -> Trained | None:
    """What the ``--ckpt_path`` among the options holds, its hyper-parameters written into the folder; None without one.

    Raises:
        UserError: no such file, or not a checkpoint.
    """
    path = next((value for option, value in option_pairs(options) if option == "--ckpt_path"), None)
    if path is None or path in ("last", "best", "hpc", "registry", "null"):
        return None
    if not Path(path).is_file():
        raise UserError(f"checkpoint '{path}' does not exist. 'fit' keeps some in its run's folder; last is the newest.")
    checkpoint = read_checkpoint(path)
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get("hyper_parameters"), dict):
        raise UserError(f"checkpoint '{path}' cannot be read: it is not one that zerolabel wrote.")
    hyper_parameters = dict(checkpoint["hyper_parameters"])
    class_path = hyper_parameters.pop("_class_path", None)
    hyper_parameters = {k: v for k, v in hyper_parameters.items() if not k.startswith("_")}
    if class_path is None:
        return None
    file = folder / "hyper_parameters.yaml"
    file.write_text(yaml.safe_dump({"model": {"class_path": class_path, "init_args": hyper_parameters}}))
    return Trained(path, class_path.rpartition(".")[2], str(file))
