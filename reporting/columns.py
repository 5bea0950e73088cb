"""Results as columns: methods ranked within a benchmark and a protocol, over seeds, the oracle apart."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from evaluation.jackknife import Estimate
from reporting.cells import MISSING, percent
from reporting.result import Result

ORACLE = "(oracle)"  # ends what a method sees, where that is labels
SIGNIFICANT = 0.05


@dataclass(frozen=True)
class Entry:
    """One method in one column, over its seeds; fractions, not per cent."""

    method: str
    sees: str
    miou: float
    low: float
    high: float
    spread: float | None  # standard deviation over seeds
    pixel_accuracy: float
    boundary_miou: float
    small_miou: float  # nan where nothing is small
    aurc: float  # less is better
    pictures_per_second: float | None
    iou: Tensor  # (K,)
    estimate: Estimate
    contrast: float | None = None  # mean score contrast
    best: bool = False
    p_value: float | None = None  # of "as good as the best", None for the best and the oracle

    @property
    def is_oracle(self) -> bool:
        return self.sees.endswith(ORACLE)

    @property
    def tied(self) -> bool:
        """Not significantly worse than the best."""
        return self.p_value is not None and self.p_value > SIGNIFICANT


@dataclass(frozen=True)
class Column:
    """A benchmark under one protocol; two protocols never share a column.

    ``protocol_hash`` and ``protocol_in_words`` are of all rules; a method may have no use for some (its own hash is in
    results.csv).
    """

    benchmark: str
    protocol: str
    protocol_hash: str
    protocol_in_words: list[str]
    names: list[str]
    entries: list[Entry]
    shown: dict[str, Result]  # by method, the result of its first seed, for its pictures

    @property
    def vocabulary(self) -> str:
        return next(iter(self.shown.values())).vocabulary

    @property
    def ranked(self) -> list[Entry]:
        return [entry for entry in self.entries if not entry.is_oracle]

    def entry(self, method: str) -> Entry | None:
        return next((entry for entry in self.entries if entry.method == method), None)


def columns(results: Iterable[Result]) -> list[Column]:
    """Results as columns, in the order of the plan."""
    grouped: dict[tuple[str, str, str], dict[str, list[Result]]] = {}
    for result in results:
        key = result.benchmark, result.column_hash, result.vocabulary_hash
        grouped.setdefault(key, {}).setdefault(result.method, []).append(result)
    found = []
    for methods in grouped.values():
        first = next(iter(methods.values()))[0]
        entries = _with_significance([_entry(seeds) for seeds in methods.values()])
        of_all = (first.benchmark, first.protocol, first.column_hash, first.column_in_words, first.names)
        found.append(Column(*of_all, entries, {method: seeds[0] for method, seeds in methods.items()}))
    return found


def _entry(results: list[Result]) -> Entry:
    def mean(name: str) -> float:
        return sum(float(getattr(result, name)) for result in results) / len(results)

    estimate = Estimate.mean([result.estimate for result in results])
    low, high = estimate.interval
    mious = torch.tensor([result.miou for result in results])
    speeds = [result.pictures_per_second for result in results if result.pictures_per_second is not None]
    contrasts: list[Any] = [result.mean_score_contrast for result in results]
    return Entry(
        results[0].method,
        results[0].sees,
        mious.mean().item(),
        low,
        high,
        mious.std().item() if len(results) > 1 else None,
        mean("pixel_accuracy"),
        mean("boundary_miou"),
        mean("small_miou"),
        mean("aurc"),
        sum(speeds) / len(speeds) if speeds else None,
        torch.stack([result.iou for result in results]).nanmean(0),
        estimate,
        None if None in contrasts else sum(contrasts) / len(results),
    )


def _with_significance(entries: list[Entry]) -> list[Entry]:
    ranked = [entry for entry in entries if not entry.is_oracle]
    if not ranked:
        return entries
    best = max(ranked, key=lambda entry: entry.miou)
    others = {e.method: replace(e, p_value=(best.estimate - e.estimate).p_value) for e in ranked if e is not best}
    return [replace(e, best=True) if e is best else others.get(e.method, e) for e in entries]


def means(shown: list[Column]) -> dict[str, float | None]:
    """By method, the mean mIoU over all columns; None of a method that is missing in one."""
    methods = dict.fromkeys(entry.method for column in shown for entry in column.entries)
    of_all = {method: [column.entry(method) for column in shown] for method in methods}
    return {
        method: None if None in entries else sum(entry.miou for entry in entries if entry) / len(entries)
        for method, entries in of_all.items()
    }


def value(entry: Entry | None) -> str:
    """``31.2`` or, over seeds, ``31.2 ± 0.4``."""
    if entry is None:
        return MISSING
    return percent(entry.miou) + (f" ± {100 * entry.spread:.1f}" if entry.spread is not None else "")


def interval(entry: Entry) -> str:
    """``30.1 to 32.3``, or a dash where a single picture tells of none."""
    return MISSING if math.isnan(entry.low) else f"{percent(entry.low)} to {percent(entry.high)}"
