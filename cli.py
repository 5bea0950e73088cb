"""The front door: ``zerolabel COMMAND ...`` = ``python cli.py COMMAND ...``.

Heavy imports happen inside the commands, so that help and mistakes answer at once.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys

from commands import COMMANDS
from common import __version__
from common.distributed import leave_group
from common.errors import UserError, known
from common.files import remove_empty_folders
from common.stopping import end_with_first, stoppable, stopped_by

KEPT = {  # what is there of a command that was stopped
    "fit": "; go on with --ckpt_path last",
    "compare": "; finished results are kept, the same command goes on",
    "predict": "; what is in the output folder is done",
    "serve": "; its temporary files are removed",
}
HELP = f"""zerolabel {__version__}: segment pictures without any segmentation label, and know which method does it best.

usage: zerolabel COMMAND [options]        (zerolabel COMMAND --help for the options)

  compare   score methods on benchmarks; writes tables (CSV, Markdown, LaTeX) and report.html
            zerolabel compare --config configs/compare/shapes.yaml --output results
  predict   segment your pictures with your words; writes label maps, overlays and JSON
            zerolabel predict --images PATH --classes "cat; dog, puppy; sky" --output out
  serve     the same on a page of this machine: drop pictures, type words, look, download
            zerolabel serve [--port 8000] [--config FILE ...]
  test      score one method on one benchmark
            zerolabel test --config configs/training_free/sclip.yaml [--config configs/benchmarks/voc21.yaml]
  fit       train a method                zerolabel fit --config configs/pretrain/tiny_clip.yaml
  validate  score on the validation split
  choose    which method to take for your own pictures, without masks
            zerolabel choose --images PATH --classes "cat; dog, puppy; sky"
  report    tables and one page from any runs: zerolabel report runs/test-* results --output report
  export    write a method with its words as one file that needs no zerolabel
            zerolabel export --config configs/training_free/sclip.yaml --classes "cat; dog" --output model.onnx
  prepare   check a downloaded data set: counts, missing and broken files, checksums; convert what is slow to read
            zerolabel prepare voc|context|coco|ade|cityscapes --root DIR [--split val] [--vocabulary NAME]
  list      known methods, rules, datamodules, vocabularies, protocols, export formats
  completion bash|zsh|fish
            prints a script that completes all of this at the press of TAB

fit, validate, test and predict are LightningCLI commands: --config may be repeated (later wins), every value can be
set on the command line (--model.rule naclip --model.protocol sclip --trainer.devices 2). --help after a --config, --model or
--data shows the options of what it names, --help_all those of Lightning's trainer, --print_config all values.
The shipped configs/... are found from any folder.
"""


def run(name: str, arguments: list[str]) -> int:
    """Imports the command's module and runs it; returns the exit code."""
    module = importlib.import_module(f"commands.{COMMANDS[name]}")
    code: int = module.run([name, *arguments] if COMMANDS[name] == "lightning" else arguments)
    return code


def main(arguments: list[str] | None = None) -> int:
    """Runs one command; a :class:`UserError` becomes one line and exit code 2 (``ZEROLABEL_DEBUG=1``: a traceback).

    Ctrl-C and SIGTERM end in one line, with 130 and 143.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(HELP, end="")
        return 0
    if arguments[0] == "--version":
        print(__version__)
        return 0
    end_with_first()
    try:
        with stoppable():
            code = run(known("command", arguments[0], COMMANDS), arguments[1:])
        leave_group()
        sys.stdout.flush()
        return code
    except BaseException as error:
        if (by := stopped_by(error)) is not None:
            if os.environ.get("LOCAL_RANK", "0") == "0":
                name = "Ctrl-C" if by is signal.SIGINT else by.name
                print(f"\nstopped by {name}{KEPT.get(arguments[0], '')}", file=sys.stderr, flush=True)
            return 128 + by
        if isinstance(error, BrokenPipeError):  # | head
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1
        if not isinstance(error, UserError) or os.environ.get("ZEROLABEL_DEBUG"):
            raise
        remove_empty_folders()
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
