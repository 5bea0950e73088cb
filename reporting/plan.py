"""What a ``configs/compare/*.yaml`` says: the rows, the columns and the quotes of a comparison."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from common.errors import UserError, known
from common.files import read_yaml, shipped
from common.values import Natural, check_values
from evaluation.protocol import Protocol


@dataclass
class MethodEntry:
    """A row: ``config`` and what to ``set`` over it; ``fit`` trains it first, ``checkpoint`` loads a trained one.

    ``fit_words`` trains it anew for every benchmark, on that benchmark's class names (``--data.scored_on``).

    ``benchmarks`` names the columns of a method that cannot do all of them, ``seeds`` stands for the comparison's. ``after``
    names an earlier row whose training leaves a file (``Segmenter.export``) in its ``trainer.default_root_dir`` that this one
    is made of; it cannot be made, nor checked, before.
    """

    name: str
    config: str
    set: dict[str, Any] = field(default_factory=dict)
    fit: bool = False
    fit_words: bool = False
    checkpoint: str | None = None
    benchmarks: list[str] | None = None
    seeds: list[Natural] | None = None
    after: str | None = None

    def __post_init__(self) -> None:
        check_values(type(self), type(self), vars(self))


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
    maps to the tables (:class:`reporting.contrast.MeanScoreContrast`); ``mean`` a table of all benchmarks with their mean.
    """

    title: str
    methods: list[MethodEntry]
    benchmarks: list[BenchmarkEntry]
    seeds: list[Natural] = field(default_factory=lambda: [0])
    pictures: Natural = 4
    note: str = ""
    contrast: bool = False
    mean: bool = False
    quotes: list[Quote] = field(default_factory=list)

    def __post_init__(self) -> None:
        check_values(type(self), type(self), vars(self))

    @property
    def untrained(self) -> list[MethodEntry]:
        """The rows that can be asked as they are."""
        return [method for method in self.methods if not method.fit and method.after is None]

    def seeds_of(self, method: MethodEntry) -> list[int]:
        """A method without training gives the same numbers for every seed."""
        seeds = self.seeds if method.seeds is None else method.seeds
        return seeds if method.fit else seeds[:1]

    def benchmarks_of(self, method: MethodEntry) -> list[BenchmarkEntry]:
        return [b for b in self.benchmarks if method.benchmarks is None or b.name in method.benchmarks]


def read_plan(path: Path, parse: Callable[[dict[str, Any]], Comparison]) -> Comparison:
    """Reads the YAML; ``parse`` (jsonargparse) checks the types.

    Raises:
        UserError: no such file, no YAML, or something in it that nobody knows or that is named twice.
    """
    if not path.is_file():
        raise UserError(f"comparison file '{path}' does not exist. Shipped: configs/compare/shapes.yaml.")
    content = read_yaml(path)
    _check_keys(f"'{path}'", content, Comparison)
    for kind, entry in ("methods", MethodEntry), ("benchmarks", BenchmarkEntry), ("quotes", Quote):
        listed = content.get(kind) or []
        if not isinstance(listed, list):
            raise UserError(f"{kind} of '{path}' are no list; start each with '- name: ...'.")
        if not listed and kind != "quotes":
            raise UserError(f"'{path}' names no {kind}; there is nothing to compare. See configs/compare/shapes.yaml.")
        for number, one in enumerate(listed, 1):
            _check_keys(f"{kind}[{number}] of '{path}'", one, entry)
    plan = parse(content)
    _check_names(plan, str(path))
    return plan


def _check_keys(where: str, content: Any, entry: type) -> None:
    if not isinstance(content, dict):
        raise UserError(f"{where} is {content!r}; write 'key: value' lines.")
    for key in content:
        known(f"key in {where}:", str(key), [each.name for each in fields(entry)])


def _check_names(plan: Comparison, path: str) -> None:
    """What an entry names is there, and no name stands for two."""
    _once(path, "methods", (method.name for method in plan.methods))
    _once(path, "benchmarks", (benchmark.name for benchmark in plan.benchmarks))
    for benchmark in plan.benchmarks:
        Protocol.preset(benchmark.protocol)
    for row, method in enumerate(plan.methods):
        if method.after is not None:
            known(
                f"earlier row with fit for method '{method.name}'", method.after, [m.name for m in plan.methods[:row] if m.fit]
            )
        if not Path(shipped(method.config)).is_file():
            raise UserError(f"config '{method.config}' of method '{method.name}' does not exist.")
        for name in method.benchmarks or []:
            known(f"benchmark of method '{method.name}'", name, [benchmark.name for benchmark in plan.benchmarks])
        if not plan.seeds_of(method) or not plan.benchmarks_of(method):
            raise UserError(f"method '{method.name}' of '{path}' has no seeds or no benchmarks; leave the key away for all.")


def _once(path: str, kind: str, names: Iterable[str]) -> None:
    listed = list(names)
    if repeated := sorted({name for name in listed if listed.count(name) > 1}):
        raise UserError(f"'{path}' names {kind} twice: {', '.join(repeated)}.")
