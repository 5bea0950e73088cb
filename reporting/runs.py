"""Run folders as ``fit``, ``validate``, ``test`` and ``compare`` leave them, read back for a report."""

from __future__ import annotations

import csv
import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.arguments import option_pairs
from common.errors import UserError
from common.kept import Kept
from reporting.cells import from_safe_cell
from reporting.recorder import RESULT
from reporting.result import Result

Curve = list[tuple[int, float]]  # (step, value)


@dataclass
class Run:
    """One run: what it was called with, what it measured, and what it logged while it trained."""

    folder: Path
    name: str
    command: str
    commit: str
    config: str
    results: list[Result]
    curves: dict[str, Curve]


def read_runs(places: list[str]) -> list[Run]:
    """The runs in ``places``, each a run's folder, a comparison's output, or a folder of such; ``NAME=PLACE`` names a run.

    Two runs of one name on the same benchmark with the same seed are told apart by their folders.

    Raises:
        UserError: nothing is there, or no run.
    """
    runs = []
    for place in places:
        name, equals, path = place.rpartition("=") if not Path(place).exists() else ("", "", place)
        folder = Path(path)
        if not folder.is_dir():
            raise UserError(f"run folder '{path}' does not exist.")
        found = [run for inner in (folder, *sorted(folder.iterdir())) if inner.is_dir() and (run := _read(inner))]
        if not found:
            raise UserError(
                f"'{path}' holds no run: no {RESULT}.safetensors, results or metrics.csv in it or in a folder of it."
            )
        runs += [_renamed(run, name) if equals else run for run in found]
    return _told_apart(runs)


def _read(folder: Path) -> Run | None:
    """None where there is no run."""
    compared = read_compared(folder)
    stores = [Kept("results", folder / stage, required=True) for stage in ("test", "val")]
    results = compared or [result for store in stores if (result := Result.load(store, RESULT))]
    curves = read_curves(folder / "metrics.csv")
    if not results and not curves:
        return None
    record: dict[str, Any] = {}
    if (file := folder / "environment.json").exists():
        record = json.loads(file.read_text(encoding="utf-8"))
    configs = sorted(folder.glob("config_*.yaml"))
    config = configs[-1].read_text(encoding="utf-8") if configs else ""
    command = record.get("command", [])
    run = Run(folder, folder.name, shlex.join(command), record.get("commit", ""), config, results, curves)
    name = name_of(command)
    return _renamed(run, name) if name and not compared else run


def read_compared(folder: Path) -> list[Result]:
    """A comparison's results: those in ``results.csv``, in its order, under its names; without one, all that are kept."""
    store, table = Kept("results", folder / "kept", required=True), folder / "results.csv"
    if not table.is_file():
        return [result for key in store.keys() if (result := Result.load(store, key))]  # noqa: SIM118 (not a dict)
    results = []
    with table.open(newline="", encoding="utf-8") as lines:
        for row in csv.DictReader(lines):
            if result := Result.load(store, row.get("key") or "none"):
                result.method, result.benchmark = from_safe_cell(row["method"]), from_safe_cell(row["benchmark"])
                results.append(result)
    return results


def read_curves(file: Path) -> dict[str, Curve]:
    """What a ``metrics.csv`` logged for steps of training and validation."""
    curves: dict[str, Curve] = {}
    if file.exists():
        with file.open(newline="", encoding="utf-8") as lines:
            for row in csv.DictReader(lines):
                for key, value in row.items():
                    if value and key.startswith(("train/", "val/")):
                        curves.setdefault(key, []).append((int(row["step"]), float(value)))
    return curves


def name_of(command: list[str]) -> str:
    """``configs/zeroseg/shapes.yaml`` and what of the model was set over it: ``zeroseg/shapes --model.match 1``."""
    pairs = option_pairs(command)
    configs = [Path(value) for option, value in pairs if option in ("--config", "-c")]
    changed = [f"{option} {value}" for option, value in pairs if option.startswith("--model")]
    name = str(configs[0].with_suffix("")).removeprefix("configs/") if configs else ""
    return " ".join([name, *changed]).strip()


def _renamed(run: Run, name: str) -> Run:
    run.name = name
    for result in run.results:
        result.method = name
    return run


def _told_apart(runs: list[Run]) -> list[Run]:
    taken: set[tuple[Any, ...]] = set()
    for run in runs:
        for result in run.results:
            key = (result.method, result.benchmark, result.column_hash, result.vocabulary_hash, result.seed)
            if key in taken:
                result.method += f" ({run.folder.name})"
            taken.add(key)
    return runs
