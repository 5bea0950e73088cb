"""What a ``configs/compare/*.yaml`` says: the rows, the columns and the quotes of a comparison."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.files import shipped
from evaluation.protocol import Protocol


@dataclass
class MethodEntry:
    """A row: ``config`` and what to ``set`` over it; ``fit`` trains it first, ``checkpoint`` loads a trained one.

    ``fit_words`` trains it anew for every benchmark, on that benchmark's class names (``--data.scored_on``).

    ``benchmarks`` names the columns of a method that cannot do all of them, ``seeds`` stands for the comparison's.
    """

    name: str
    config: str
    set: dict[str, Any] = field(default_factory=dict)
    fit: bool = False
    fit_words: bool = False
    checkpoint: str | None = None
    benchmarks: list[str] | None = None
    seeds: list[int] | None = None


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
    """The content of a ``configs/compare/*.yaml``.

    ``note`` is what a reader must know, printed under the title; ``contrast`` adds the mean score contrast of every method's
    maps to the tables (:class:`reporting.contrast.MeanScoreContrast`).
    """

    title: str
    methods: list[MethodEntry]
    benchmarks: list[BenchmarkEntry]
    seeds: list[int] = field(default_factory=lambda: [0])
    pictures: int = 4
    note: str = ""
    contrast: bool = False
    quotes: list[Quote] = field(default_factory=list)

    def seeds_of(self, method: MethodEntry) -> list[int]:
        """A method without training gives the same numbers for every seed."""
        seeds = self.seeds if method.seeds is None else method.seeds
        return seeds if method.fit else seeds[:1]

    def benchmarks_of(self, method: MethodEntry) -> list[BenchmarkEntry]:
        return [b for b in self.benchmarks if method.benchmarks is None or b.name in method.benchmarks]


def read_plan(path: Path, parse: Callable[[Path], Comparison]) -> Comparison:
    """Reads the YAML; ``parse`` (jsonargparse) checks keys and types."""
    if not path.is_file():
        raise UserError(f"comparison file '{path}' does not exist. Shipped: configs/compare/shapes.yaml.")
    plan = parse(path)
    names = [m.name for m in plan.methods]
    if repeated := sorted({n for n in names if names.count(n) > 1}):
        raise UserError(f"'{path}' names methods twice: {', '.join(repeated)}.")
    for benchmark in plan.benchmarks:
        Protocol.preset(benchmark.protocol)
    for method in plan.methods:
        if not Path(shipped(method.config)).is_file():
            raise UserError(f"config '{method.config}' of method '{method.name}' does not exist.")
    return plan
