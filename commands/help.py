"""``fit --help`` and its like: the options of the method and the data that are named; those of the trainer: --help_all."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import common.compat  # noqa: F401  (must come before lightning)

from jsonargparse import ArgumentParser

from common.arguments import option_pairs
from common.errors import known
from common.files import read_yaml, shipped
from datamodules import DATAMODULES
from methods import METHODS

CONFIG_OPTIONS = ("--config", "-c")
HELP_OPTIONS = {"-h", "--help"}
HELP_ALL = "--help_all"
PARTS: dict[str, tuple[str, dict[str, type]]] = {"model": ("method", METHODS), "data": ("datamodule", DATAMODULES)}
OF_ALL = {
    "--config FILE": "settings of a method or a data set; later ones win, and options win over all",
    "--print_config": "all settings as a config, instead of running",
    "--ckpt_path FILE": "a checkpoint; 'last' is the newest of this folder's runs",
    "--seed_everything N": "of the run (default: 0)",
    "--trainer.max_steps N": "length of a fit",
    "--trainer.devices N": "GPUs, or processes on a CPU, with --trainer.strategy ddp",
    "--trainer.precision P": "such as bf16-mixed",
    "--trainer.logger NAME": "WandbLogger or TensorBoardLogger instead of CSV files",
    "--trainer.default_root_dir DIR": "where the folder of the run is made (default: runs)",
    HELP_ALL: "every option of Lightning's trainer",
}


def print_help(command: str, options: list[str]) -> None:
    """Prints the options of every command, then those of the method and the data that the options or their configs name."""
    print(f"usage: zerolabel {command} --config FILE [--config FILE ...] [--option VALUE ...]\n")
    for option, text in OF_ALL.items():
        print(f"  {option:<32} {text}")
    chosen = named(options)
    for part, (kind, classes) in PARTS.items():
        if part not in chosen:
            print(f"\n--{part} NAME: {', '.join(sorted(classes))}.")
            print("With a name, or a config that has one, its options are shown here.")
            continue
        module, _, name = chosen[part].rpartition(".")
        cls = getattr(import_module(module), name, None) if module else classes[known(kind, name, classes)]
        parser = ArgumentParser(prog="", usage="", add_help=False)
        parser.add_class_arguments(cls, part)
        print(f"\n--{part} {name}, {_without_usage(parser.format_help())}", end="")


def named(options: list[str]) -> dict[str, str]:
    """The class paths that the options and their configs have for ``model`` and ``data``; the last of each."""
    found: dict[str, str] = {}
    for option, value in option_pairs(options):
        if option in CONFIG_OPTIONS and Path(shipped(value)).is_file():
            content = read_yaml(shipped(value))
            found |= {part: path for part in PARTS if (path := _class_of(content.get(part)))}
        found |= {part: value for part in PARTS if option in (f"--{part}", f"--{part}.class_path")}
    return found


def _class_of(section: Any) -> str | None:
    path = section.get("class_path") if isinstance(section, dict) else section
    return path if isinstance(path, str) else None


def _without_usage(text: str) -> str:
    """jsonargparse's help from the class's first line on."""
    lines = text.splitlines(keepends=True)
    heading = (i for i, line in enumerate(lines) if line.strip() and not line.startswith((" ", "usage", "options")))
    return "".join(line for line in lines[next(heading, 0) :] if " CONFIG " not in line)
