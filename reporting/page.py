"""report.html: one self-contained page with the table, IoU per class, the same pictures by every method, the protocol."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader
from numpy.typing import NDArray
from PIL import Image

from common.drawing import blend, label_image
from common.files import atomic_path
from reporting.figures import draw_curves
from reporting.plan import Comparison
from reporting.result import Result
from reporting.runs import Run
from reporting.tables import columns, interval, means, value

PICTURE_WIDTH = 320  # pixels, about twice what the page shows


def write_report(results: list[Result], plan: Comparison, output: Path, runs: Sequence[Run] = ()) -> None:
    """Renders the template beside this file with everything embedded in it; ``runs`` adds their curves and commands."""
    jinja = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True)
    jinja.filters.update(percent=_percent, value=value, interval=interval, heat=_heat)
    shown = columns(results)
    page = jinja.get_template("page.html.j2").render(
        plan=plan,
        columns=shown,
        means=means(shown) if plan.mean else {},
        figures=_figures(results),
        galleries=[_gallery(results, benchmark.name, plan.pictures) for benchmark in plan.benchmarks],
        row=results[0].row if results else None,
        runs=runs,
        curves=[(run.name, _data_url(draw_curves(run.curves))) for run in runs if run.curves],
    )
    with atomic_path(output / "report.html") as temporary:
        temporary.write_text(page, encoding="utf-8")


def _figures(results: list[Result]) -> list[tuple[str, str]]:
    """What each method's training learnt from, where it drew that, as (method, embedded PNG); of several seeds the first."""
    figures = {result.method: result.figure for result in reversed(results) if result.figure is not None}
    return [(method, _data_url(figure)) for method, figure in reversed(figures.items())]


def write_label_maps(results: list[Result], output: Path) -> None:
    """``label_maps/BENCHMARK/METHOD/INDEX.png``, indexed by train id, of the pictures that the report shows."""
    for result in results:
        folder = output / "label_maps" / _file_name(result.benchmark) / _file_name(result.method)
        palette = np.array(result.palette, np.uint8)
        for key, labels in result.panels.items():
            index, _, kind = key.partition("/")
            if kind == "prediction":
                with atomic_path(folder / f"{index}.png") as temporary:
                    label_image(labels.numpy(), palette).save(temporary, format="PNG")


def _file_name(text: str) -> str:
    return re.sub(r"[^\w.-]+", "_", text).strip("_")


def _gallery(results: list[Result], benchmark: str, pictures: int) -> dict[str, Any]:
    """Rows of (caption, embedded PNG), a row per picture: the picture, the ground truth, each method's label map."""
    of_benchmark = [result for result in reversed(results) if result.benchmark == benchmark and result.panels]
    shown = list({result.method: result for result in of_benchmark}.values())[::-1]
    if not shown:
        return {"benchmark": benchmark, "rows": []}
    rows, present = [], set[int]()
    palette = np.array(shown[0].palette, np.uint8)
    for i in range(pictures):
        panels = shown[0].panels
        if f"{i}/picture" not in panels:
            break
        picture = panels[f"{i}/picture"].permute(1, 2, 0).numpy()
        mask = panels[f"{i}/mask"].numpy()
        predictions = [(result.method, result.panels.get(f"{i}/prediction")) for result in shown]
        maps = [("ground truth", mask)] + [(name, labels.numpy()) for name, labels in predictions if labels is not None]
        present |= {int(k) for _, labels in maps for k in np.unique(labels)}
        rows.append(
            [("picture", _embed(picture))] + [(name, _embed(_colour(picture, labels, palette))) for name, labels in maps]
        )
    names = shown[0].names
    legend = [(names[k], "#" + bytes(palette[k]).hex()) for k in sorted(present) if k < len(names)]
    return {"benchmark": benchmark, "rows": rows, "legend": legend, "ignored": 255 in present}


def _colour(picture: NDArray[np.uint8], labels: NDArray[np.uint8], palette: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.asarray(blend(picture, labels, palette))


def _embed(pixels: NDArray[np.uint8]) -> str:
    image = Image.fromarray(pixels)
    image.thumbnail((PICTURE_WIDTH, 4 * PICTURE_WIDTH))  # small pictures are left to the browser's scaling
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return _data_url(file.getvalue())


def _data_url(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()


def _percent(fraction: float | None) -> str:
    return "–" if fraction is None or fraction != fraction else f"{100 * fraction:.1f}"


def _heat(iou: float) -> str:
    """CSS of a heat-map cell: white at 0, deep blue at 1, readable text on both."""
    if iou != iou:
        return "color:#999"
    return f"background:hsl(214 75% {96 - 56 * iou:.0f}%);color:{'#fff' if iou > 0.55 else '#123'}"
