"""Published numbers, quoted with their source: to be looked at beside measured ones, never counted or ranked with them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from common.files import read_yaml

FILE = Path(__file__).with_name("quotes.yaml")
MEAN = "mean8"  # over the eight benchmarks of the field


@dataclass(frozen=True)
class Quoted:
    """A row of the file; ``numbers`` by benchmark, in per cent as printed (``"59.63"``, ``"43.1-43.5"``)."""

    method: str
    backbone: str
    protocol: str
    label_free: str
    post: str
    source: list[str]
    numbers: dict[str, str]
    note: str = ""

    @property
    def cited(self) -> str:
        """Its sources in words."""
        return "; ".join(cited(code) for code in self.source)


@cache
def content() -> dict[str, Any]:
    """The file, read when it is first asked for."""
    return read_yaml(FILE)


@cache
def quotes() -> list[Quoted]:
    """All rows, in the order of the file."""
    rows = []
    for row in content()["rows"]:
        numbers = {benchmark: str(number) for benchmark, number in row["numbers"].items()}
        rows.append(Quoted(**row | {"numbers": numbers}))
    return rows


def quoted_on(vocabulary: str, data: str) -> list[Quoted]:
    """What is published on a benchmark.

    Args:
        vocabulary: its label space.
        data: what a result says of its pictures, such as ``"VOC, val"``; other pictures, or other splits, have no quotes.
    """
    kind, *rest = data.split(", ")
    if content()["benchmarks"].get(vocabulary, {}).get("data") != kind or "val" not in rest:
        return []
    return [row for row in quotes() if vocabulary in row.numbers]


def cited(code: str) -> str:
    """A source in words: ``SCLIP, README (arXiv 2312.01597, ...)``."""
    source = content()["sources"][code]
    return f"{source['paper']}, {source['table']} ({source['id']})"


def protocol_in_words(code: str) -> str:
    """What a protocol's code stands for."""
    return str(content()["protocols"][code])


def listing() -> list[str]:
    """The rows as lines for a terminal, then what their codes stand for."""
    short = {name: about["short"] for name, about in content()["benchmarks"].items()} | {MEAN: "Mean8"}
    rows = [[*short.values(), "method", "backbone, data", "protocol", "label-free", "source"]]
    for q in quotes():
        numbers = [q.numbers.get(name, "") for name in short]
        rows.append([*numbers, q.method, q.backbone, q.protocol, q.label_free, ", ".join(q.source)])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    codes = [f"  {code:<6} {protocol_in_words(code)}" for code in content()["protocols"]]
    head = "published mIoU in per cent, as quoted: other weights, pictures and protocols than what is measured here"
    return [
        head,
        *lines,
        "",
        "protocols:",
        *codes,
        "",
        "sources:",
        *(f"  {code:<6} {cited(code)}" for code in content()["sources"]),
    ]
