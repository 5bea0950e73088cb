"""compare: methods x benchmarks x seeds, each cell computed once and kept, ending in one table.

A cell is keyed by everything that can change its numbers (method configuration, code, weights, benchmark, protocol,
seed), so an interrupted comparison redoes only what is missing. How a method or a benchmark is made is handed in by the
command line (:class:`Builder`); nothing here knows one.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any
from typing import Protocol as Interface

import torch
from lightning import Trainer
from lightning.pytorch.utilities import rank_zero_only

from common.files import atomic_path, shipped, writable_folder
from reporting.contrast import ScoreContrast
from reporting.page import write_label_maps, write_report
from reporting.plan import BenchmarkEntry, Comparison, MethodEntry
from reporting.recorder import Measure, weights_hash
from reporting.result import Cell, code_hash, digest
from reporting.tables import write_tables


class Builder(Interface):
    """How the command line makes a segmenter with the data and trainer of its own config, and a benchmark."""

    def method(self, entry: MethodEntry, seed: int, words_of: BenchmarkEntry | None) -> tuple[Any, Any, Trainer]: ...

    def data(self, entry: BenchmarkEntry) -> Any: ...


def strategy(devices: int) -> str:
    """Lightning's name for sharing the work."""
    return "ddp" if devices > 1 else "auto"


def writes() -> bool:
    """Whether this process is the first; known before a process group is."""
    return not getattr(rank_zero_only, "rank", 0)


def compare(plan: Comparison, output: Path, builder: Builder, devices: int = 1) -> list[Cell]:
    """Computes what is missing and writes tables and report after every new cell.

    With several devices Lightning starts this program once for each; all of them walk the same way, the first one writes.
    """
    writable_folder(output / "cells")
    cells: list[Cell] = []
    total = sum(len(plan.seeds_of(method)) * len(plan.benchmarks_of(method)) for method in plan.methods)
    for cell, is_new in _cells(plan, output, builder, devices):
        cells.append(cell)
        if not writes():
            continue
        row = cell.row
        print(
            f"[{len(cells)}/{total}] {row['method']} on {row['benchmark']}: mIoU {100 * row['miou']:.2f}"
            f" ({row['pictures_per_second']:.0f} pictures/s){'' if is_new else ', kept from before'}",
            flush=True,
        )
        if is_new:
            write_tables(cells, plan, output)
    if writes():
        write_tables(cells, plan, output)
        write_report(cells, plan, output)
        write_label_maps(cells, output)
    return cells


def _cells(plan: Comparison, output: Path, builder: Builder, devices: int) -> Iterator[tuple[Cell, bool]]:
    data = {entry.name: builder.data(entry) for entry in plan.benchmarks}
    for benchmark_data in data.values():  # mistakes show before the first hour
        benchmark_data.prepare_data()
        benchmark_data.benchmark("test")
    for method in plan.methods:
        for seed in plan.seeds_of(method):
            config = Path(shipped(method.config)).read_text(encoding="utf-8")
            for benchmarks, words_of in _fits(plan, method):
                model, fit_data, trainer = builder.method(method, seed, words_of)
                fit_key = digest(
                    [asdict(method), config, seed, code_hash()] + ([words_of.data, words_of.options] if words_of else [])
                )
                model.protocol_name = benchmarks[0].protocol
                fit_file = output / "fits" / f"{fit_key}.ckpt"
                fit_seconds = _train(model, fit_data, trainer, fit_file) if method.fit else None
                weights = weights_hash(model)
                for benchmark in benchmarks:
                    model.protocol_name = benchmark.protocol
                    identity = [asdict(method), config, asdict(benchmark), seed, weights, plan.contrast, code_hash()]
                    key = digest(identity)
                    path = output / "cells" / f"{key}.safetensors"
                    cell = Cell.load(path)
                    is_new = cell is None
                    if cell is None:
                        cell = _measure(model, data[benchmark.name], method, benchmark, seed, plan, devices)
                        cell.row |= {"fit_seconds": fit_seconds, "weights": weights, "key": key}
                        cell.row["figure"] = str(figure.relative_to(output)) if (figure := _figure(fit_file)).exists() else None
                        cell.save(path)
                    yield cell, is_new


def _fits(plan: Comparison, method: MethodEntry) -> list[tuple[list[BenchmarkEntry], BenchmarkEntry | None]]:
    """The benchmarks that one training serves: all of them, or each its own where a method trains on the class names."""
    benchmarks = plan.benchmarks_of(method)
    if not method.fit_words:
        return [(benchmarks, None)]
    alike: dict[str, list[BenchmarkEntry]] = {}
    for benchmark in benchmarks:
        alike.setdefault(repr((benchmark.data, benchmark.options)), []).append(benchmark)
    return [(group, group[0]) for group in alike.values()]


def _measure(
    model: Any, data: Any, method: MethodEntry, benchmark: BenchmarkEntry, seed: int, plan: Comparison, devices: int
) -> Cell:
    measure = Measure(plan.pictures)
    quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    quiet |= {"enable_checkpointing": False, "devices": devices, "strategy": strategy(devices)}
    Trainer(callbacks=[measure], **quiet).test(model, data, verbose=False)
    row = {"method": method.name, "benchmark": benchmark.name, "seed": seed}
    cell = measure.cell(model, data, **row)
    if plan.contrast:  # a second look, not timed
        (logged,) = Trainer(callbacks=[ScoreContrast()], **quiet).test(model, data, verbose=False)
        cell.row["mean_score_contrast"] = logged["test/mean_score_contrast"]
    return cell


def _train(model: Any, data: Any, trainer: Trainer, path: Path) -> float:
    """Trains, or loads what an earlier start trained; returns the seconds of the training itself."""
    if not path.exists():
        print(f"training {type(model).__name__} ...", flush=True)
        started = time.perf_counter()
        trainer.fit(model, data)
        seconds = time.perf_counter() - started
        with atomic_path(path) as temporary:
            torch.save({"state_dict": model.state_dict(), "seconds": seconds}, temporary)
        if model.figure is not None:
            with atomic_path(_figure(path)) as temporary:
                shutil.copyfile(model.figure, temporary)
    trained = torch.load(path, weights_only=True)
    model.load_state_dict(trained["state_dict"])
    return float(trained["seconds"])


def _figure(fit_file: Path) -> Path:
    """Of what training learnt from, where the method has one."""
    return fit_file.with_suffix(".png")
