"""What a comparison measures: each result once, kept under a key of everything that can change its numbers.

That is configuration, code, weights, the content of the pictures, words, protocol, seed and, where something is trained, the
devices. So an interrupted comparison redoes only what is missing, and nothing else is ever taken for it. How a method or a
benchmark is made is handed in by the command line (:class:`Builder`); nothing here knows one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any
from typing import Protocol as Interface

from lightning import Trainer

from backbones.remembered import LIMIT, TokenMemory, remembered
from common.code import code_of
from common.errors import about
from common.files import read_yaml, shipped
from common.kept import Kept, key_of
from common.weights import weights_hash
from reporting.contrast import ScoreContrast
from reporting.fits import Fits, Training, trained_by, writes
from reporting.plan import BenchmarkEntry, Comparison, MethodEntry
from reporting.recorder import Measure, save_exported
from reporting.result import Result


class Builder(Interface):
    """How the command line makes a segmenter with the data and trainer of its own config, and a benchmark.

    ``begin`` comes before these in a process that the command line did not start.
    """

    def begin(self) -> None: ...

    def method(self, entry: MethodEntry, seed: int, words_of: BenchmarkEntry | None) -> tuple[Any, Any, Trainer]: ...

    def data(self, entry: BenchmarkEntry) -> Any: ...


def strategy(devices: int) -> str:
    """Lightning's name for sharing the work."""
    return "ddp" if devices > 1 else "auto"


class Measuring:
    """The results of a plan, row by row.

    Args:
        plan: the comparison.
        output: folder of what is kept.
        builder: makes methods and benchmarks.
        devices: that share each row.
        content: by benchmark, the digest of its pictures, from a process that has read them; otherwise they are read here.
    """

    def __init__(
        self, plan: Comparison, output: Path, builder: Builder, devices: int, content: dict[str, str] | None = None
    ) -> None:
        self.plan, self.output, self.builder, self.devices = plan, output, builder, devices
        self.kept = Kept("results", output / "kept", required=True)
        self.fits = Fits(output / "fits", devices)
        self.memory = TokenMemory(0)  # of a method's towers, over its benchmarks
        self.data = {entry.name: self._data(entry) for entry in plan.benchmarks}
        for data in self.data.values():
            data.prepare_data()
        self.content = content or {name: data.benchmark("test").content() for name, data in self.data.items()}

    def check(self) -> dict[str, dict[str, Any]]:
        """Makes the methods as they will be made, and asks them every benchmark's words: mistakes show before the first hour.

        Returns:
            By method that is trained, what its training follows from: equal for methods that share one.

        Raises:
            UserError: one cannot be made, or cannot be asked, such as a closed head of another number of outputs.
        """
        trainings = {}
        for method in self.plan.methods:
            if method.after is None:
                made = self._check(method)
                if method.fit:
                    trainings[method.name] = trained_by(configuration(method), made.read_options)
        return trainings

    def _data(self, entry: BenchmarkEntry) -> Any:
        with about(f"benchmark '{entry.name}'"):
            return self.builder.data(entry)

    def _check(self, method: MethodEntry) -> Any:
        """The method's class."""
        for benchmarks, words_of in _fits(self.plan, method):
            with about(f"method '{method.name}'"):
                model, _, _ = self.builder.method(method, self.plan.seeds_of(method)[0], words_of)
            for benchmark in benchmarks:
                with about(f"method '{method.name}' on benchmark '{benchmark.name}'"):
                    model.use_protocol(benchmark.protocol)
                    model.use_vocabulary(self.data[benchmark.name].vocabulary)
        return type(model)

    def row(self, method: MethodEntry) -> Iterator[tuple[Result, bool]]:
        """The results of a method, and whether each is new."""
        for seed in self.plan.seeds_of(method):
            for benchmarks, words_of in _fits(self.plan, method):
                self.memory = TokenMemory(0)  # what is remembered of the row before is in the way of training
                model, fit_data, trainer = self.builder.method(method, seed, words_of)
                model.use_protocol(benchmarks[0].protocol)
                made_by = configuration(method) | {"seed": seed}
                training = Training()
                if method.fit:
                    words = [words_of.data, words_of.options] if words_of else []
                    training = self.fits.train(model, fit_data, trainer, made_by | {"words": words})
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


def configuration(method: MethodEntry) -> dict[str, Any]:
    """What of a method's entry and config changes numbers: not its name, nor which seeds and columns it is asked for."""
    kept = ("set", "fit", "fit_words")
    return {"config": read_yaml(shipped(method.config))} | {
        name: value for name, value in asdict(method).items() if name in kept
    }


def _fits(plan: Comparison, method: MethodEntry) -> list[tuple[list[BenchmarkEntry], BenchmarkEntry | None]]:
    """The benchmarks that one training serves: all of them, or each its own where a method trains on the class names."""
    benchmarks = plan.benchmarks_of(method)
    if not method.fit_words:
        return [(benchmarks, None)]
    alike: dict[str, list[BenchmarkEntry]] = {}
    for benchmark in benchmarks:
        alike.setdefault(repr((benchmark.data, benchmark.options)), []).append(benchmark)
    return [(group, group[0]) for group in alike.values()]
