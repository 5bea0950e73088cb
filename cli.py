"""The front door: ``zerolabel COMMAND ...`` = ``python cli.py COMMAND ...``.

Heavy imports happen inside the commands, so that help and mistakes answer at once.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from zerolabel_common import UserError, __version__, known, leave_group

HELP = f"""zerolabel {__version__}: segment pictures without any segmentation label, and know which method does it best.

usage: zerolabel COMMAND [options]        (zerolabel COMMAND --help for the options)

  compare   score methods on benchmarks; writes tables (CSV, Markdown, LaTeX) and report.html
            zerolabel compare --config configs/compare/shapes.yaml --output results
  predict   segment your pictures with your words; writes label maps, overlays and JSON
            zerolabel predict --config configs/training_free/sclip.yaml \\
                --images PATH --classes "cat; dog, puppy; sky" --output out
  test      score one method on one benchmark
            zerolabel test --config configs/training_free/sclip.yaml [--config configs/benchmarks/voc21.yaml]
  fit       train a method                zerolabel fit --config configs/pretrain/tiny_clip.yaml
  validate  score on the validation split
  report    tables and one page from any runs: zerolabel report runs/test-* results --output report
  prepare   check a downloaded data set: counts, missing and broken files, checksums; convert what is slow to read
            zerolabel prepare voc|context|coco|ade --root DIR [--split val] [--vocabulary NAME]
  list      known methods, rules, datamodules, vocabularies, protocols
  completion bash|zsh|fish
            prints a script that completes all of this at the press of TAB

fit, validate, test and predict are LightningCLI commands: --config may be repeated (later wins), every value can be
set on the command line (--model.rule naclip --model.protocol sclip --trainer.devices 2), --print_config shows the rest.
The shipped configs/... are found from any folder.
"""


def _lightning(arguments: list[str]) -> int:
    from zerolabel_lightning import run

    return run(arguments)


def _compare(arguments: list[str]) -> int:
    from zerolabel_compare import run_compare

    return run_compare(arguments)


def _report(arguments: list[str]) -> int:
    from zerolabel_report import run_report

    return run_report(arguments)


def _prepare(arguments: list[str]) -> int:
    from zerolabel_prepare import run_prepare

    return run_prepare(arguments)


def _list(arguments: list[str]) -> int:
    import datamodules
    import methods
    from backbones.attention import RULES
    from evaluation import Protocol

    kinds = {
        "methods": {name: f"sees {cls.sees.value}" for name, cls in methods.METHODS.items()},
        "rules": dict.fromkeys(RULES, "attention rule of TrainingFree"),
        "datamodules": {name: (cls.__doc__ or "").split("\n")[0] for name, cls in datamodules.DATAMODULES.items()},
        "vocabularies": {n: datamodules.Vocabulary.load(n).title for n in datamodules.Vocabulary.known_names()},
        "protocols": {n: "; ".join(Protocol.preset(n).describe()[:1]) for n in Protocol.known_presets()},
    }
    for kind in [known("kind", arguments[0], kinds)] if arguments else kinds:
        print(f"{kind}:")
        for name, text in kinds[kind].items():
            print(f"  {name:<20} {text}")
    return 0


def _completion(arguments: list[str]) -> int:
    from zerolabel_completion import run_completion

    return run_completion(arguments, COMMANDS, KINDS)


KINDS = ("methods", "rules", "datamodules", "vocabularies", "protocols")
COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "compare": _compare,
    "predict": lambda arguments: _lightning(["predict", *arguments]),
    "test": lambda arguments: _lightning(["test", *arguments]),
    "fit": lambda arguments: _lightning(["fit", *arguments]),
    "validate": lambda arguments: _lightning(["validate", *arguments]),
    "report": _report,
    "prepare": _prepare,
    "list": _list,
    "completion": _completion,
}


def main(arguments: list[str] | None = None) -> int:
    """Runs one command; a :class:`UserError` becomes one line and exit code 2 (``ZEROLABEL_DEBUG=1``: a traceback)."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(HELP, end="")
        return 0
    if arguments[0] == "--version":
        print(__version__)
        return 0
    try:
        code = COMMANDS[known("command", arguments[0], COMMANDS)](arguments[1:])
        leave_group()
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except UserError as error:
        if os.environ.get("ZEROLABEL_DEBUG"):
            raise
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
