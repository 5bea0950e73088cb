"""compare: methods x benchmarks x seeds, each cell computed once and kept, ending in one table.

A cell is keyed by everything that can change its numbers (method configuration, code, weights, benchmark, protocol,
seed), so an interrupted comparison redoes only what is missing. How a method or a benchmark is made is handed in by the
command line (:class:`Builder`); nothing here knows one.
"""

from __future__ import annotations

import hashlib
import json
import platform
import subprocess
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any
from typing import Protocol as Interface

import torch
from lightning import Trainer
from lightning.pytorch.callbacks import Callback
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from evaluation.protocol import Protocol
from evaluation.report import write_report
from evaluation.tables import write_tables
from zerolabel_common import UserError, atomic_path, writable_folder

ROOT = Path(__file__).parents[1]
PACKAGES = ("methods", "datamodules", "backbones", "evaluation")


@dataclass
class MethodEntry:
    """A row: ``config`` and what to ``set`` over it; ``fit`` trains it first, ``checkpoint`` loads a trained one.

    ``benchmarks`` names the columns of a method that cannot do all of them.
    """

    name: str
    config: str
    set: dict[str, Any] = field(default_factory=dict)
    fit: bool = False
    checkpoint: str | None = None
    benchmarks: list[str] | None = None


@dataclass
class BenchmarkEntry:
    """A column: a datamodule, by name and with its ``options``, scored under a protocol preset."""

    name: str
    data: str
    protocol: str
    options: dict[str, Any] = field(default_factory=dict)


@dataclass
class Quote:
    """A published number, shown as quoted, never in a column of measured ones."""

    method: str
    benchmark: str
    value: str
    source: str


@dataclass
class Comparison:
    """The content of a ``configs/compare/*.yaml``."""

    title: str
    methods: list[MethodEntry]
    benchmarks: list[BenchmarkEntry]
    seeds: list[int] = field(default_factory=lambda: [0])
    pictures: int = 4
    quotes: list[Quote] = field(default_factory=list)


class Builder(Interface):
    """How the command line makes a segmenter with the data and trainer of its own config, and a benchmark."""

    def method(self, entry: MethodEntry, seed: int) -> tuple[Any, Any, Trainer]: ...

    def data(self, entry: BenchmarkEntry) -> Any: ...


@dataclass
class Cell:
    """One measured number with all that belongs to it: ``row`` for the tables, tensors for intervals and pictures."""

    row: dict[str, Any]
    areas: Tensor
    iou: Tensor
    panels: dict[str, Tensor]

    def save(self, path: Path) -> None:
        tensors = {"areas": self.areas, "iou": self.iou} | {f"panel/{k}": v for k, v in self.panels.items()}
        with atomic_path(path) as temporary:
            save_file({k: v.contiguous() for k, v in tensors.items()}, temporary, {"row": json.dumps(self.row)})

    @classmethod
    def load(cls, path: Path) -> Cell | None:
        """None where there is no cell, or a broken one: it is then computed again."""
        try:
            with safe_open(path, "pt") as file:
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
                row = json.loads(file.metadata()["row"])
        except Exception:  # missing, truncated, foreign: whatever is wrong, the remedy is the same
            return None
        panels = {k.removeprefix("panel/"): v for k, v in tensors.items() if k.startswith("panel/")}
        return cls(row, tensors["areas"], tensors["iou"], panels)


class _Watch(Callback):
    """Times the test and keeps the first pictures, their masks and label maps."""

    def __init__(self, pictures: int) -> None:
        self.pictures, self.panels, self.seconds = pictures, dict[str, Tensor](), 0.0

    def on_test_start(self, trainer: Any, pl_module: Any) -> None:
        self.seconds = -time.perf_counter()

    def on_test_end(self, trainer: Any, pl_module: Any) -> None:
        self.seconds += time.perf_counter()

    def on_test_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        for image, mask, index, result in zip(
            batch["image"], batch["mask"], batch["index"], outputs["label_maps"], strict=True
        ):
            if index < self.pictures:
                self.panels[f"{index}/picture"] = (image * 255 + 0.5).to(torch.uint8).cpu()
                self.panels[f"{index}/mask"] = mask.cpu()
                self.panels[f"{index}/prediction"] = result.labels.cpu()


def compare(plan: Comparison, output: Path, builder: Builder) -> list[Cell]:
    """Computes what is missing and writes tables and report after every new cell."""
    writable_folder(output / "cells")
    cells: list[Cell] = []
    total = sum(len(_seeds(plan, method)) * len(_benchmarks(plan, method)) for method in plan.methods)
    for cell, is_new in _cells(plan, output, builder):
        cells.append(cell)
        row = cell.row
        print(
            f"[{len(cells)}/{total}] {row['method']} on {row['benchmark']}: mIoU {100 * row['miou']:.2f}"
            f" ({row['pictures_per_second']:.0f} pictures/s){'' if is_new else ', kept from before'}",
            flush=True,
        )
        if is_new:
            write_tables(cells, plan, output)
    write_tables(cells, plan, output)
    write_report(cells, plan, output)
    return cells


def _cells(plan: Comparison, output: Path, builder: Builder) -> Iterator[tuple[Cell, bool]]:
    data = {entry.name: builder.data(entry) for entry in plan.benchmarks}  # mistakes show before the first hour
    for method in plan.methods:
        for seed in _seeds(plan, method):
            model, fit_data, trainer = builder.method(method, seed)
            fit_seconds = _train(model, fit_data, trainer, method, seed, output) if method.fit else None
            weights = _hash({k: v for k, v in model.state_dict().items() if not k.startswith("metric")})
            for benchmark in _benchmarks(plan, method):
                model.protocol_name = benchmark.protocol
                identity = [
                    asdict(method),
                    asdict(benchmark),
                    seed,
                    weights,
                    _code_hash(),
                    Protocol.preset(benchmark.protocol).hash,
                ]
                key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
                path = output / "cells" / f"{key}.safetensors"
                cell = Cell.load(path)
                is_new = cell is None
                if cell is None:
                    cell = _measure(model, data[benchmark.name], method, benchmark, seed, plan.pictures)
                    cell.row |= {"fit_seconds": fit_seconds, "weights": weights, "key": key}
                    cell.save(path)
                yield cell, is_new


def _seeds(plan: Comparison, method: MethodEntry) -> list[int]:
    """A method without training gives the same numbers for every seed."""
    return plan.seeds if method.fit else plan.seeds[:1]


def _benchmarks(plan: Comparison, method: MethodEntry) -> list[BenchmarkEntry]:
    return [b for b in plan.benchmarks if method.benchmarks is None or b.name in method.benchmarks]


def _measure(model: Any, data: Any, method: MethodEntry, benchmark: BenchmarkEntry, seed: int, pictures: int) -> Cell:
    watch = _Watch(pictures)
    trainer = Trainer(
        logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, callbacks=[watch]
    )
    trainer.test(model, data, verbose=False)
    result = model.metric.result()
    count = len(result["pictures"])
    row = {
        "method": method.name,
        "benchmark": benchmark.name,
        "seed": seed,
        "sees": model.sees.value,
        "miou": result["miou"].item(),
        "pixel_accuracy": result["pixel_accuracy"].item(),
        "frequency_weighted_iou": result["frequency_weighted_iou"].item(),
        "pictures": count,
        "pictures_per_second": count / watch.seconds,
        "seconds": watch.seconds,
        "protocol": model.protocol.name,
        "protocol_hash": model.protocol.hash,
        "protocol_in_words": model.protocol.describe(),
        "vocabulary": model.vocabulary.name,
        "vocabulary_hash": model.vocabulary.hash,
        "names": list(model.vocabulary.names),
        "palette": model.vocabulary.palette.tolist(),
        "device": str(model.device),
        "date": time.strftime("%Y-%m-%d %H:%M:%S"),
    } | environment()
    return Cell(row, result["areas"].cpu(), result["iou"].cpu(), watch.panels)


def _train(model: Any, data: Any, trainer: Trainer, method: MethodEntry, seed: int, output: Path) -> float:
    """Trains, or loads what an earlier start trained; returns the seconds of the training itself."""
    config = Path(method.config).read_text(encoding="utf-8")
    key = hashlib.sha256(json.dumps([asdict(method), config, seed, _code_hash()]).encode()).hexdigest()[:16]
    path = output / "fits" / f"{key}.ckpt"
    if not path.exists():
        print(f"training {method.name}, seed {seed} ...", flush=True)
        started = time.perf_counter()
        trainer.fit(model, data)
        seconds = time.perf_counter() - started
        with atomic_path(path) as temporary:
            torch.save({"state_dict": model.state_dict(), "seconds": seconds}, temporary)
    trained = torch.load(path, weights_only=True)
    model.load_state_dict(trained["state_dict"])
    return float(trained["seconds"])


@cache
def environment() -> dict[str, str]:
    """Commit and versions, for every row."""

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=False)
        return done.stdout.strip()

    changed = "+changes" if git("status", "--porcelain", "--untracked-files=no") else ""
    packages = ("torch", "lightning", "open_clip_torch", "torchmetrics", "transformers")
    versions = {f"version_{name}": version(name) for name in packages}
    return {
        "commit": (git("rev-parse", "--short=12", "HEAD") or "unknown") + changed,
        "python": platform.python_version(),
    } | versions


@cache
def _code_hash() -> str:
    files = sorted(f for package in PACKAGES for f in (ROOT / package).rglob("*") if f.suffix in (".py", ".yaml", ".j2"))
    return hashlib.sha256(b"".join(f.read_bytes() for f in files)).hexdigest()[:12]


def _hash(state: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for key, value in sorted(state.items()):
        digest.update(key.encode() + value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:12]


def read_plan(path: Path, parse: Any) -> Comparison:
    """Reads the YAML; ``parse`` (jsonargparse) checks keys and types."""
    if not path.is_file():
        raise UserError(f"comparison file '{path}' does not exist. Shipped: configs/compare/shapes.yaml.")
    plan: Comparison = parse(path)
    names = [m.name for m in plan.methods]
    if repeated := sorted({n for n in names if names.count(n) > 1}):
        raise UserError(f"'{path}' names methods twice: {', '.join(repeated)}.")
    for benchmark in plan.benchmarks:
        Protocol.preset(benchmark.protocol)
    for method in plan.methods:
        if not Path(method.config).is_file():
            raise UserError(f"config '{method.config}' of method '{method.name}' does not exist.")
    return plan
