"""The export command: a method with its words and its protocol as one file, for where there is no zerolabel."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import common.compat  # noqa: F401  (must come before lightning)

import numpy as np
import torch

from commands.errors import plain_errors
from commands.lightning import RUNS
from commands.predict_options import CONFIG, NAMES_A_METHOD, TOWER
from commands.quiet import quiet
from commands.trained import build_trained
from common.arguments import option_pairs, required, taken
from common.errors import UserError, known
from common.files import shipped
from methods.deployed import graph_of, legend, refuse
from reporting.checkpoints import last_checkpoint
from reporting.model_file import check_path, write_model

USAGE = """usage: zerolabel export [--config FILE ...] [--ckpt_path FILE] --classes "cat; dog, puppy; sky" --output model.onnx

Writes a method with its words and its protocol as one graph: a picture (1, 3, H, W) uint8 of any size in, its label map
(H, W) uint8 out. Resizing, windows, background and argmax are in it; the text tower is not.

  --config FILE     settings of a method; without one, photographs are segmented by the packaged tower, as in predict
  --ckpt_path FILE  its trained weights; 'last' is the newest of this folder's runs
  --classes WORDS   free text, a .txt file of classes, or the name of a vocabulary
  --output FILE     .onnx (onnxruntime, needs no torch) or .pt2 (torch.export)
  --quantise        weights of matrix products and convolutions as 8-bit integers; .onnx only
  --model.NAME V    any option of the method

docs/deploy.md: what can be exported, and a script that runs such a file.
"""
OWN = ("--classes", "--output", "--ckpt_path", "--quantise")
NO_RUN = ("--trainer.logger=false", "--trainer.enable_checkpointing=false", "--trainer.accelerator=cpu")
CHECKED = ((120, 160), (171, 128))  # pictures that a file is tried on before it is kept


class ExportOptions(NamedTuple):
    """What is asked of ``export``; ``model`` are LightningCLI's options of the method."""

    classes: str
    output: Path
    checkpoint: str | None
    quantise: bool
    model: list[str]

    @property
    def by_default(self) -> bool:
        """Whether no method is named: photographs by the packaged tower, as in ``predict``."""
        return self.checkpoint is None and not NAMES_A_METHOD & {option for option, _ in option_pairs([*self.model, ""])}


def run(arguments: list[str]) -> int:
    """Traces, writes and tries."""
    quiet()
    if {"-h", "--help"} & set(arguments):
        print(USAGE, end="")
        return 0
    asked = export_options(arguments)
    check_path(asked.output, asked.quantise)
    model = method_of(asked)
    with plain_errors():
        share = write_model(graph_of(model), legend(model), asked.output, expected(model), asked.quantise)
    if asked.by_default:
        print(TOWER)
    made_of = (
        f"{model.vocabulary.num_classes} classes, protocol {model.protocol.hash}, {asked.output.stat().st_size / 1e6:.1f} MB"
    )
    print(
        f"{asked.output}: {type(model).__name__}, {made_of}; {share:.2%} of the pixels as by the method itself, on two noises"
    )
    return 0


def export_options(arguments: list[str]) -> ExportOptions:
    """Reads the command line.

    Raises:
        UserError: an option without a value, or one that is missing.
    """
    given, model = taken(arguments, OWN, ("--quantise",))
    required(given, classes='"cat; dog"', output="model.onnx")
    quantise = known("value of --quantise", given.get("--quantise", "false"), ("true", "false")) == "true"
    return ExportOptions(given["--classes"], Path(given["--output"]), given.get("--ckpt_path"), quantise, model)


def method_of(asked: ExportOptions) -> Any:
    """The method, with its trained weights if there are any, and with its words."""
    checkpoint = asked.checkpoint
    if checkpoint == "last":
        found = last_checkpoint(Path(RUNS))
        if found is None:
            raise UserError(f"no checkpoint under '{RUNS}' yet: fit first, or give --ckpt_path a file.")
        checkpoint = str(found)
    default = ["--config", shipped(CONFIG)] if asked.by_default else []
    words = {"images": __file__, "classes": asked.classes, "background": asked.by_default}  # some file, for none is read
    data = "--data=" + json.dumps({"class_path": "Pictures", "init_args": words})
    cli = build_trained([*default, *asked.model, data, *NO_RUN], checkpoint)
    refuse(cli.model, cli.model.no_graph)  # before its words are asked, which may be wrong for it
    cli.model.use_vocabulary(cli.datamodule.vocabulary)
    return cli.model


def expected(model: Any) -> list[tuple[Any, Any]]:
    """Drawn pictures, (1, 3, H, W) uint8, and their label maps."""
    random = np.random.default_rng(0)
    pictures = [random.integers(0, 256, (1, 3, *size), np.uint8) for size in CHECKED]
    return [(picture, model.segment(torch.from_numpy(picture[0])).labels.numpy()) for picture in pictures]
