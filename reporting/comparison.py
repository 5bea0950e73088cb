"""compare: methods x benchmarks x seeds, each result measured once and kept, ending in one table.

A result is kept under a key of everything that can change its numbers: configuration, code, weights, the content of the
pictures, words, protocol, seed and, where something is trained, the devices. So an interrupted comparison redoes only what is
missing, and nothing else is ever taken for it. How a method or a benchmark is made is handed in by the command line
(:class:`Builder`); nothing here knows one.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from typing import Protocol as Interface

import torch
from lightning import Callback, Trainer
from lightning.pytorch.utilities import rank_zero_only

from backbones.remembered import LIMIT, TokenMemory, remembered
from common.code import code_of
from common.errors import UserError
from common.files import read_yaml, shipped, writable_folder
from common.kept import Kept, key_of
from common.restorable import learnt_state, load_learnt
from common.weights import weights_hash
from reporting.cells import speed
from reporting.contrast import ScoreContrast
from reporting.page import write_label_maps, write_report
from reporting.plan import BenchmarkEntry, Comparison, MethodEntry
from reporting.recorder import Measure, save_exported
from reporting.result import Result
from reporting.tables import write_tables

FIGURE = "figure"  # among a fit's tensors: the PNG of what it learnt from


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


def compare(plan: Comparison, output: Path, builder: Builder, devices: int = 1) -> list[Result]:
    """Measures what is missing and writes tables and report after every new result.

    With several devices Lightning starts this program once for each; all of them walk the same way, the first one writes.
    They share each training batch, so that the training is the same experiment on any number of them.
    """
    writable_folder(output / "kept")
    results: list[Result] = []
    total = sum(len(plan.seeds_of(method)) * len(plan.benchmarks_of(method)) for method in plan.methods)
    for result, is_new in Measuring(plan, output, builder, devices).results():
        results.append(result)
        if not writes():
            continue
        print(
            f"[{len(results)}/{total}] {result.method} on {result.benchmark}: mIoU {100 * result.miou:.2f}"
            f" ({speed(result.pictures_per_second)} pictures/s){'' if is_new else ', kept from before'}",
            flush=True,
        )
        if is_new:
            write_tables(results, plan, output)
    if writes():
        write_tables(results, plan, output)
        write_report(results, plan, output)
        write_label_maps(results, output)
    return results


@dataclass(frozen=True)
class Training:
    """How a method came by its weights: seconds, devices and images a step, None without a training; and the figure of it."""

    seconds: float | None = None
    devices: int | None = None
    images_per_step: int | None = None
    figure: bytes | None = None


class Learnt(Callback):
    """Remembers what a training learnt, before the model makes of it what is read (``Segmenter.as_read``)."""

    def on_fit_end(self, trainer: Trainer, pl_module: Any) -> None:
        self.state = {name: value.clone() for name, value in learnt_state(pl_module).items()}


class Measuring:
    """The results of a plan, one after the other."""

    def __init__(self, plan: Comparison, output: Path, builder: Builder, devices: int) -> None:
        self.plan, self.builder, self.devices = plan, builder, devices
        self.kept = Kept("results", output / "kept", required=True)
        self.fits = Kept("fits", output / "fits", required=True)
        self.memory = TokenMemory(0)  # of a method's towers, over its benchmarks
        self.data = {entry.name: builder.data(entry) for entry in plan.benchmarks}
        self.content: dict[str, str] = {}
        for name, data in self.data.items():  # mistakes show before the first hour
            data.prepare_data()
            self.content[name] = data.benchmark("test").content()
        for method in plan.methods:
            if method.after is None:
                self._check(method)

    def _check(self, method: MethodEntry) -> None:
        """Makes the method as it will be made, and asks it every benchmark's words; no picture is scored.

        Raises:
            UserError: it cannot be made, or cannot be asked, such as a closed head of another number of outputs.
        """
        for benchmarks, words_of in _fits(self.plan, method):
            try:
                model, _, _ = self.builder.method(method, self.plan.seeds_of(method)[0], words_of)
            except UserError as error:
                raise UserError(f"method '{method.name}': {error}") from error
            for benchmark in benchmarks:
                try:
                    model.use_protocol(benchmark.protocol)
                    model.use_vocabulary(self.data[benchmark.name].vocabulary)
                except UserError as error:
                    raise UserError(f"method '{method.name}' on benchmark '{benchmark.name}': {error}") from error

    def results(self) -> Iterator[tuple[Result, bool]]:
        """Each result, and whether it is new."""
        for method in self.plan.methods:
            for seed in self.plan.seeds_of(method):
                for benchmarks, words_of in _fits(self.plan, method):
                    model, fit_data, trainer = self.builder.method(method, seed, words_of)
                    model.use_protocol(benchmarks[0].protocol)
                    made_by = configuration(method) | {"seed": seed}
                    training = Training()
                    if method.fit:
                        words = [words_of.data, words_of.options] if words_of else []
                        training = self._train(model, fit_data, trainer, made_by | {"words": words})
                        if writes() and method.name in {other.after for other in self.plan.methods}:
                            save_exported(model, Path(trainer.default_root_dir))
                    self.memory = TokenMemory(LIMIT if len(benchmarks) > 1 else 0)
                    with remembered(model, self.memory):
                        for benchmark in benchmarks:
                            yield self._result(model, method, seed, benchmark, made_by, training)

    def _result(
        self, model: Any, method: MethodEntry, seed: int, benchmark: BenchmarkEntry, made_by: dict[str, Any], training: Training
    ) -> tuple[Result, bool]:
        data = self.data[benchmark.name]
        model.use_protocol(benchmark.protocol)
        model.use_vocabulary(data.vocabulary)
        key = key_of(
            **made_by,
            weights=weights_hash(model),
            data=[benchmark.data, benchmark.options, self.content[benchmark.name]],
            asked=[data.vocabulary.hash, model.vocabulary.hash, model.protocol.hash],
            pictures=self.plan.pictures,
            contrast=self.plan.contrast,
            code=code_of(type(model), type(data), Measure),
        )
        result = Result.load(self.kept, key)
        is_new = result is None
        if result is None:
            result = self._measure(model, data, method, benchmark, seed)
            result.weights, result.key, result.figure = weights_hash(model), key, training.figure
            result.fit_seconds, result.images_per_step = training.seconds, training.images_per_step
            result.devices = training.devices or result.devices
            if writes():
                result.save(self.kept, key)
        result.method, result.benchmark = method.name, benchmark.name  # names may change, the number stays
        return result, is_new

    def _measure(self, model: Any, data: Any, method: MethodEntry, benchmark: BenchmarkEntry, seed: int) -> Result:
        measure = Measure(self.plan.pictures)
        recalled_before = self.memory.recalled
        quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
        quiet |= {"enable_checkpointing": False, "devices": self.devices, "strategy": strategy(self.devices)}
        trainer = Trainer(callbacks=[measure], **quiet)
        trainer.test(model, data, verbose=False)
        result = measure.result(model, data, trainer, method=method.name, benchmark=benchmark.name, seed=seed)
        if self.memory.recalled > recalled_before:
            result.pictures_per_second = None
        if self.plan.contrast:  # the pictures are scored a second time, which is not timed
            (logged,) = Trainer(callbacks=[ScoreContrast()], **quiet).test(model, data, verbose=False)
            result.mean_score_contrast = logged["test/mean_score_contrast"]
        return result

    def _train(self, model: Any, data: Any, trainer: Trainer, made_by: dict[str, Any]) -> Training:
        """Trains, or loads what an earlier start trained."""
        images_per_step = data.train_batch_size * self.devices * trainer.accumulate_grad_batches
        key = key_of(
            **_trained_by(made_by, type(model).read_options),
            weights=weights_hash(model),
            pictures=data.training_content(),
            shared=[self.devices, images_per_step],
            code=code_of(type(model), type(data)),
        )
        entry = self.fits.read(key)
        if entry is not None:
            png = entry.tensors.pop(FIGURE, None)
            load_learnt(model, entry.tensors)
            figure = None if png is None else png.numpy().tobytes()
            return Training(entry.note["seconds"], self.devices, images_per_step, figure)
        print(f"training {type(model).__name__} ...", flush=True)
        learnt = Learnt()
        trainer.callbacks.append(learnt)  # type: ignore[attr-defined]  # Lightning sets it
        started = time.perf_counter()
        trainer.fit(model, data)
        seconds = time.perf_counter() - started
        if writes():
            drawn = {} if model.figure is None else {FIGURE: torch.frombuffer(bytearray(model.figure), dtype=torch.uint8)}
            self.fits.write(key, learnt.state | drawn, {"seconds": seconds})
        return Training(seconds, self.devices, images_per_step, model.figure)


def configuration(method: MethodEntry) -> dict[str, Any]:
    """What of a method's entry and config changes numbers: not its name, nor which seeds and columns it is asked for."""
    kept = ("set", "fit", "fit_words")
    return {"config": read_yaml(shipped(method.config))} | {
        name: value for name, value in asdict(method).items() if name in kept
    }


def _trained_by(made_by: dict[str, Any], read_options: frozenset[str]) -> dict[str, Any]:
    """Without the options that only the reading of the trained weights follows: their rows share one training."""
    model = made_by["config"].get("model", {})
    arguments = {name: value for name, value in model.get("init_args", {}).items() if name not in read_options}
    chosen = {name: value for name, value in made_by["set"].items() if name.rpartition(".")[2] not in read_options}
    return made_by | {"config": made_by["config"] | {"model": model | {"init_args": arguments}}, "set": chosen}


def _fits(plan: Comparison, method: MethodEntry) -> list[tuple[list[BenchmarkEntry], BenchmarkEntry | None]]:
    """The benchmarks that one training serves: all of them, or each its own where a method trains on the class names."""
    benchmarks = plan.benchmarks_of(method)
    if not method.fit_words:
        return [(benchmarks, None)]
    alike: dict[str, list[BenchmarkEntry]] = {}
    for benchmark in benchmarks:
        alike.setdefault(repr((benchmark.data, benchmark.options)), []).append(benchmark)
    return [(group, group[0]) for group in alike.values()]
