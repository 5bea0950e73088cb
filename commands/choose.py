"""The choose command: which of several methods to take for one's own pictures and words, without a mask."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import common.compat  # noqa: F401  (must come before lightning)

import torch
from jsonargparse import ArgumentParser
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

from commands.compare import CommandLineBuilder, parse_plan
from commands.errors import plain_errors
from commands.quiet import quiet
from common.errors import UserError, about
from common.files import atomic_path, shipped, writable_folder
from common.values import Within
from datamodules.pictures import Pictures
from evaluation.choosing import CRITERIA, Seen, criteria, look, ranking
from reporting.cells import percent, safe_cell
from reporting.plan import Comparison, read_plan

CONFIG = "configs/compare/photographs.yaml"
TRUST = (
    "Ranked by agreement with the other rows and by certainty. Without masks this is a guess: docs/choosing.md says how often "
    "it was right, and what it costs where it was wrong."
)


def run(arguments: list[str]) -> int:
    """Ranks the methods of a comparison on pictures without masks."""
    quiet()
    parser = ArgumentParser(prog="zerolabel choose", description=run.__doc__, exit_on_error=False)
    parser.add_argument("--images", required=True, help="a folder of pictures")
    parser.add_argument("--classes", required=True, type=str, help='"cat; dog, puppy; sky", a .txt file or a vocabulary')
    parser.add_argument(
        "--config", "-c", default=CONFIG, help="the comparison whose rows are asked; those to be trained are not"
    )
    parser.add_argument("--protocol", default=None, help="preset for all rows; the comparison's first if not given")
    parser.add_argument("--pictures", type=int, default=30, help="how many of the folder's pictures are looked at")
    parser.add_argument("--output", "-o", default=None, help="CSV file of the ranking")
    with plain_errors():
        options = parser.parse_args(arguments)
        Within(1).check("pictures", options.pictures, int)
        plan = read_plan(Path(shipped(options.config)), parse_plan)
        data = Pictures(options.images, options.classes, background=options.config == CONFIG)
        if options.output:
            check_file(Path(options.output))
    images = some(data, options.pictures)
    seen = ask(plan, data, images, options.protocol or plan.benchmarks[0].protocol)
    found = criteria(seen, data.vocabulary.num_classes)
    show(found, len(images))
    if options.output:
        write(Path(options.output), found)
    return 0


def check_file(path: Path) -> None:
    """Before the rows are asked: that the ranking can be written. Raises UserError if it cannot."""
    if path.is_dir():
        raise UserError(f"--output '{path}' is a folder. Name a file in it: --output {path / 'ranking.csv'}")
    writable_folder(path.parent)


def some(data: Pictures, count: int) -> list[Tensor]:
    """At most ``count`` pictures, evenly spread over the folder; one that cannot be read is named and left out."""
    items, step = data.items, max(1, len(data.files) / count)
    images = []
    for item in (items[int(i * step)] for i in range(min(count, len(data.files)))):
        if item["error"]:
            print(f"left out: {item['error']}", flush=True)
        else:
            images.append(item["image"])
    if not images:
        raise UserError(f"none of the pictures looked at in '{data.images}' can be read.")
    return images


def ask(plan: Comparison, data: Pictures, images: list[Tensor], protocol: str) -> dict[str, Seen]:
    """What every row that needs no training says of the pictures.

    Raises:
        UserError: fewer than two such rows, or one that cannot be made or asked.
    """
    rows = plan.untrained
    if len(rows) < 2:
        raise UserError(f"'{plan.title}' has {len(rows)} row without training; there is nothing to choose from.")
    seen = {}
    for row in rows:
        with about(f"method '{row.name}'"):
            model: Any = CommandLineBuilder().method(row, 0)[0]
            model.use_protocol(protocol)
            model.use_vocabulary(data.vocabulary)
        with torch.inference_mode():
            seen[row.name] = look(model.label_maps, track(images, row.name))
    return seen


def show(found: dict[str, dict[str, float]], pictures: int) -> None:
    """The ranking as a table, and how far to trust it."""
    table = Table("method", *CRITERIA, title=f"{pictures} pictures, no masks; per cent", title_style="bold")
    for name in ranking(found):
        table.add_row(name, *(percent(found[name][criterion]) for criterion in CRITERIA))
    console = Console()
    console.print(table)
    console.print(TRUST)


def write(path: Path, found: dict[str, dict[str, float]]) -> None:
    """The ranking as CSV, fractions."""
    with atomic_path(path) as new, new.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["method", *CRITERIA])
        writer.writerows([safe_cell(name), *(found[name][criterion] for criterion in CRITERIA)] for name in ranking(found))
