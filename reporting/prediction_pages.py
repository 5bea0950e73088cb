"""predictions.html: every picture, or film, beside its overlay, with the classes found and their shares, in pages."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader

from common.files import atomic_path
from evaluation.vocabulary import Vocabulary
from reporting.class_colours import css

PICTURES_A_PAGE = 100


def write_pages(folder: Path, root: Path, rows: list[dict[str, Any]], vocabulary: Vocabulary, title: str) -> None:
    """``predictions.html`` and, where there are more pictures than one page shows, ``predictions-2.html`` and so on.

    The pages hold links, not pictures: they work as long as the pictures stay where they are, and stay small.

    Args:
        folder: where ``overlays`` lies.
        root: folder that the pictures' names start from.
        rows: of ``predictions.json``.
        vocabulary: what was asked, for the colours.
        title: how much there is to see.
    """
    page = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True).get_template("predictions.html.j2")
    parts = [rows[start : start + PICTURES_A_PAGE] for start in range(0, len(rows), PICTURES_A_PAGE)] or [[]]
    names = [page_name(number) for number in range(len(parts))]
    colours = {name: css(rgb) for name, rgb in zip(vocabulary.names, vocabulary.palette.tolist(), strict=True)}
    for number, part in enumerate(parts):
        entries = [
            {**row, "source": link(root / row["picture"], folder), "overlay": quote(f"overlays/{overlay_name(row)}")}
            for row in part
        ]
        text = page.render(entries=entries, colours=colours, names=names, number=number, title=title)
        with atomic_path(folder / names[number]) as path:
            path.write_text(text, encoding="utf-8")


def overlay_name(row: dict[str, Any]) -> str:
    """A picture's overlay is called after it; a film has its own name for its own."""
    return str(row.get("overlay", f"{row['picture']}.png"))


def page_name(number: int) -> str:
    """The first page has the plain name."""
    return f"predictions-{number + 1}.html" if number else "predictions.html"


def link(path: Path, start: Path) -> str:
    """From a page in ``start`` to a file, also to one on another drive."""
    try:
        return quote(os.path.relpath(path, start).replace(os.sep, "/"))
    except ValueError:
        return path.resolve().as_uri()
