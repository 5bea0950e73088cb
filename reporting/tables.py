"""The comparison as CSV, Markdown and LaTeX: methods ranked, the oracle apart, published numbers as quotes."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jinja2 import Environment
from torch import Tensor

from common.files import atomic_path
from evaluation.jackknife import Estimate
from reporting.plan import Comparison
from reporting.result import Result

ORACLE = "(oracle)"  # ends what a method sees, where that is labels
SIGNIFICANT = 0.05
_TEX = {c: "\\" + c for c in "&%$#_{}"} | {"\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}"}


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
    pictures_per_second: float
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
        found.append(Column(*of_all, entries))
    return found


def _entry(results: list[Result]) -> Entry:
    estimate = Estimate.mean([result.estimate for result in results])
    low, high = estimate.interval
    mious = torch.tensor([result.miou for result in results])
    contrasts: list[Any] = [result.mean_score_contrast for result in results]
    return Entry(
        results[0].method,
        results[0].sees,
        mious.mean().item(),
        low,
        high,
        mious.std().item() if len(results) > 1 else None,
        sum(result.pixel_accuracy for result in results) / len(results),
        sum(result.pictures_per_second for result in results) / len(results),
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


_MARKDOWN = """\
# {{ plan.title|md }}
{% if plan.note %}
{{ plan.note }}
{% endif -%}
{% for column in columns %}
## {{ column.benchmark|md }}

Protocol {{ column.protocol }}, `{{ column.protocol_hash }}`.

| method | sees | mIoU | 95 % interval | pixel acc. | {{ "contrast | " if plan.contrast }}pictures/s |
|---|---|---|---|---|---|{{ "---|" if plan.contrast }}
{% for e in column.entries -%}
| {{ e.method|md }} | {{ e.sees }} | {{ "**%s**"|format(e|value) if e.best else e|value }}{{ " ≈" if e.tied }} | \
{{ e|interval }} | {{ e.pixel_accuracy|percent }} | \
{{ "%+.1f | "|format(100 * e.contrast) if plan.contrast }}{{ "%.0f"|format(e.pictures_per_second) }} |
{% endfor -%}
{% endfor %}
**Best of its column**; ≈ not significantly worse (paired jackknife over pictures, p > 0.05). Rows that see masks are \
oracles, outside the ranking. mIoU in per cent.\
{{ " Contrast: how much brighter a class's map is on the class than off it, in per cent." if plan.contrast }}
{% if plan.mean %}
## All benchmarks

| method |{% for column in columns %} {{ column.benchmark|md }} |{% endfor %} mean |
|---|{% for column in columns %}---|{% endfor %}---|
{% for method, mean in means.items() -%}
| {{ method|md }} |{% for column in columns %} {{ column.entry(method)|value }} |{% endfor %} {{ mean|percent }} |
{% endfor -%}
{% endif -%}
{% if plan.quotes %}
## Published, as quoted (other models, pictures and protocols: not comparable with the measured numbers)

| method | benchmark | mIoU | source |
|---|---|---|---|
{% for q in plan.quotes -%}
| {{ q.method|md }} | {{ q.benchmark|md }} | {{ q.value|md }} | {{ q.source|md }} |
{% endfor -%}
{% endif -%}
"""

_LATEX = """\
% {{ plan.title|line }}. Bold: best; $\\approx$: not significantly worse (paired jackknife, p > 0.05); $\\dagger$: oracle.
\\begin{tabular}{l{{ "r" * columns|length }}{{ "r" if plan.mean }}}
\\toprule
method{% for column in columns %} & {{ column.benchmark|tex }}{% endfor %}{{ " & mean" if plan.mean }} \\\\
\\midrule
{% for method, mean in means.items() -%}
{{ method|tex }}{% for column in columns %} & {{ column.entry(method)|cell }}{% endfor %}\
{{ " & " + mean|percent if plan.mean }} \\\\
{% endfor -%}
\\bottomrule
\\end{tabular}
"""


def means(shown: list[Column]) -> dict[str, float | None]:
    """By method, the mean mIoU over all columns; None of a method that is missing in one."""
    methods = dict.fromkeys(entry.method for column in shown for entry in column.entries)
    of_all = {method: [column.entry(method) for column in shown] for method in methods}
    return {
        method: None if None in entries else sum(entry.miou for entry in entries if entry) / len(entries)
        for method, entries in of_all.items()
    }


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"


def value(entry: Entry | None) -> str:
    """``31.2`` or, over seeds, ``31.2 ± 0.4``."""
    if entry is None:
        return "–"
    return _percent(entry.miou) + (f" ± {100 * entry.spread:.1f}" if entry.spread is not None else "")


def interval(entry: Entry) -> str:
    """``30.1 to 32.3``, or a dash where a single picture tells of none."""
    return "–" if math.isnan(entry.low) else f"{_percent(entry.low)} to {_percent(entry.high)}"


def _line(text: str) -> str:
    return " ".join(text.split())


def _tex(text: str) -> str:
    return "".join(_TEX.get(c, c) for c in _line(text))


def _md(text: str) -> str:
    return "".join("\\" + c if c in "\\`|<>*[]" else c for c in _line(text))


def safe_cell(value: Any) -> Any:
    """A text that a spreadsheet would take for a formula, behind an apostrophe; anything else as it is."""
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value


def _tex_cell(entry: Entry | None) -> str:
    if entry is None:
        return "--"
    number = value(entry).replace("±", "$\\pm$")
    mark = "$\\dagger$" if entry.is_oracle else "$\\approx$" if entry.tied else ""
    return (f"\\textbf{{{number}}}" if entry.best else number) + mark


def environment() -> Environment:
    jinja = Environment(autoescape=False, keep_trailing_newline=True)  # noqa: S701 (text, not HTML)
    jinja.filters |= {"percent": _percent, "value": value, "interval": interval, "cell": _tex_cell}
    jinja.filters |= {"line": _line, "md": _md, "tex": _tex}
    return jinja


def write_tables(results: list[Result], plan: Comparison, output: Path) -> None:
    """``results.csv`` (a row per result), ``per_class.csv``, ``results.md`` and ``results.tex``."""
    shown = columns(results)
    rows = [result.row for result in results]
    _write(output / "results.csv", _csv(rows, list(dict.fromkeys(key for row in rows for key in row))))
    per_class = [
        {"method": r.method, "benchmark": r.benchmark, "seed": r.seed, "class": name, "iou": iou}
        for r in results
        for name, iou in zip(r.names, r.iou.tolist(), strict=True)
    ]
    _write(output / "per_class.csv", _csv(per_class, ["method", "benchmark", "seed", "class", "iou"]))
    jinja = environment()
    for name, template in ("results.md", _MARKDOWN), ("results.tex", _LATEX):
        _write(output / name, jinja.from_string(template).render(plan=plan, columns=shown, means=means(shown)))


def _csv(rows: list[dict[str, Any]], fields: list[str]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, fields, lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: safe_cell(value) for name, value in row.items()} for row in rows)
    return text.getvalue()


def _write(path: Path, text: str) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
