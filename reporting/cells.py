"""How a number or a text stands in a cell: one format for every table and page."""

from __future__ import annotations

from typing import Any

MISSING = "–"


def percent(fraction: float | None) -> str:
    """``31.2``, or a dash for what is missing or undefined."""
    return MISSING if fraction is None or fraction != fraction else f"{100 * fraction:.1f}"


def speed(pictures_per_second: float | None) -> str:
    """``31``, or a dash where it was not measured."""
    return MISSING if pictures_per_second is None else f"{pictures_per_second:.0f}"


def safe_cell(value: Any) -> Any:
    """A text that a spreadsheet would take for a formula, behind an apostrophe; anything else as it is."""
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value


def from_safe_cell(cell: str) -> str:
    """The text that :func:`safe_cell` was given."""
    return cell[1:] if cell.startswith("'") and safe_cell(cell[1:]) == cell else cell
