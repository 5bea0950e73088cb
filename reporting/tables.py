"""The comparison as CSV, Markdown and LaTeX: methods ranked, the oracle apart, published numbers as quotes."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader

from common.files import atomic_path
from reporting.cells import percent, safe_cell, speed
from reporting.columns import Column, Entry, columns, interval, means, value
from reporting.plan import Comparison
from reporting.quotes import Quoted, quoted_on
from reporting.result import Result

_TEX = {c: "\\" + c for c in "&%$#_{}"} | {"\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}"}


def _line(text: str) -> str:
    return " ".join(text.split())


def _tex(text: str) -> str:
    return "".join(_TEX.get(c, c) for c in _line(text))


def _md(text: str) -> str:
    return "".join("\\" + c if c in "\\`|<>*[]" else c for c in _line(text))


def _tex_cell(entry: Entry | None) -> str:
    if entry is None:
        return "--"
    number = value(entry).replace("±", "$\\pm$")
    mark = "$\\dagger$" if entry.is_oracle else "$\\approx$" if entry.tied else ""
    return (f"\\textbf{{{number}}}" if entry.best else number) + mark


def environment() -> Environment:
    loader = FileSystemLoader(Path(__file__).parent)
    jinja = Environment(loader=loader, autoescape=False, keep_trailing_newline=True)  # noqa: S701 (text, not HTML)
    jinja.filters |= {"percent": percent, "speed": speed, "value": value, "interval": interval, "cell": _tex_cell}
    jinja.filters["quotes"] = published
    jinja.filters |= {"line": _line, "md": _md, "tex": _tex}
    return jinja


def published(column: Column) -> list[Quoted]:
    """What is published on a column's benchmark, for a block of its own: quotes are in no column and no ranking."""
    first = next(iter(column.shown.values()))
    return quoted_on(first.vocabulary, first.data)


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
    for name in ("results.md", "results.tex"):
        page = jinja.get_template(f"{name}.j2").render(plan=plan, columns=shown, means=means(shown))
        _write(output / name, page)


def _csv(rows: list[dict[str, Any]], fields: list[str]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, fields, lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: safe_cell(value) for name, value in row.items()} for row in rows)
    return text.getvalue()


def _write(path: Path, text: str) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
