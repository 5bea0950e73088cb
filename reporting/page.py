"""report.html: one self-contained page. All methods on all benchmarks first, then each benchmark with its pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jinja2 import Environment, FileSystemLoader

from common.colours import ink_on
from common.drawing import label_image
from common.files import atomic_path, file_name
from reporting.album import Album
from reporting.cells import percent, speed
from reporting.class_colours import class_colours, css
from reporting.columns import Column, columns, interval, means, value
from reporting.figures import draw_curves
from reporting.gallery import Gallery, Painter
from reporting.plan import Comparison
from reporting.quotes import protocol_in_words
from reporting.result import Result
from reporting.risk_curves import RiskCurves
from reporting.runs import Run
from reporting.scale import Scale
from reporting.tables import published

ABREAST = 8  # benchmarks side by side in the matrix, so that it fits a telephone
METHODS_ABREAST = 12  # in the tables of classes
HEAT = ((247, 250, 255), (96, 162, 230), (8, 48, 107))  # of IoU 0, a half and 1
HEAT_STEPS = 20


@dataclass(frozen=True)
class Section:
    """What the page shows of one column."""

    anchor: str
    column: Column
    scale: Scale
    gallery: Gallery
    risk: RiskCurves


def write_report(results: list[Result], plan: Comparison, output: Path, runs: Sequence[Run] = ()) -> None:
    """Renders the template beside this file with everything embedded in it; ``runs`` adds their curves and commands."""
    album, shown = Album(), columns(results)
    figures = _figures(results, album)
    curves = [(run.name, album.png(draw_curves(run.curves))) for run in runs if run.curves]
    colours = class_colours(name for column in shown for name in column.names)
    galleries = [Painter(column, colours, album).gallery(plan.pictures) for column in shown]
    sections = [
        Section(f"benchmark-{n}", column, Scale.of(column.entries), gallery, RiskCurves.of(column))
        for n, (column, gallery) in enumerate(zip(shown, galleries, strict=True), 1)
    ]
    page = (
        environment()
        .get_template("page.html.j2")
        .render(
            plan=plan,
            sections=sections,
            methods=list(dict.fromkeys(result.method for result in results)),
            oracles={entry.method for column in shown for entry in column.entries if entry.is_oracle},
            means=means(shown) if plan.mean else {},
            colours={name: css(rgb) for name, rgb in colours.items()},
            figures=figures,
            row=results[0].row if results else None,
            runs=runs,
            curves=curves,
            left_out=album.left_out,
        )
    )
    with atomic_path(output / "report.html") as temporary:
        temporary.write_text(page, encoding="utf-8")


def environment() -> Environment:
    """Of the page's templates."""
    jinja = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    jinja.filters.update(percent=percent, speed=speed, value=value, interval=interval, heat=heat_step, quotes=published)
    jinja.filters["protocol"] = protocol_in_words
    jinja.globals.update(heat_colours=heat_colours(), abreast=ABREAST, methods_abreast=METHODS_ABREAST)
    return jinja


def heat_colours() -> list[tuple[str, str]]:
    """(ground, ink) of each step of a heat map, pale to deep; the ink is the one that is read better."""
    places, stops = np.linspace(0, 1, HEAT_STEPS + 1), np.linspace(0, 1, len(HEAT))
    steps = np.stack([np.interp(places, stops, channel) for channel in zip(*HEAT, strict=True)], 1).round().astype(int)
    return [(css(rgb), ink_on(rgb)) for rgb in steps.tolist()]


def heat_step(iou: float) -> str:
    """The CSS class of an IoU."""
    return "absent" if iou != iou else f"h{round(iou * HEAT_STEPS)}"


def _figures(results: list[Result], album: Album) -> list[tuple[str, str | None]]:
    """What each method's training learnt from, where it drew that; of several seeds the first."""
    figures = {result.method: result.figure for result in reversed(results) if result.figure is not None}
    return [(method, album.png(figure)) for method, figure in reversed(figures.items())]


def write_label_maps(results: list[Result], output: Path) -> None:
    """``label_maps/BENCHMARK/METHOD/INDEX.png``, indexed by train id, of the pictures that the report shows."""
    for result in results:
        folder = output / "label_maps" / file_name(result.benchmark) / file_name(result.method)
        palette = np.array(result.palette, np.uint8)
        for key, labels in result.panels.items():
            index, _, kind = key.partition("/")
            if kind == "prediction":
                with atomic_path(folder / f"{index}.png") as temporary:
                    label_image(labels.numpy(), palette).save(temporary, format="PNG")
