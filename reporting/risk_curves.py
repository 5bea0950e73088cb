"""The risk-coverage curves of a benchmark, all methods in one drawing: what a page needs to draw them as SVG.

An SVG takes its inks from the page, and so is legible on a dark one too.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from evaluation.selective import LEFT_OUT, STATED, coverage_at, risk_at, told_apart
from reporting.columns import Column

POINTS = 60  # of a curve
LEFT, RIGHT, TOP, BOTTOM = 50, 470, 10, 250  # of the axes in the drawing
GOLDEN = 137.508  # degrees between hues, which keep neighbours apart
DASHES = ("", "8 3", "2 3")  # beside the hue, for who cannot tell hues


@dataclass(frozen=True)
class Line:
    """One method: how its curve is drawn, and its numbers as fractions.

    ``coverages`` are those at each stated risk, ``told_apart`` AUROC and FPR95 of the classes left out.
    """

    method: str
    hue: int
    dashes: str
    points: str
    aurc: float
    coverages: list[float]
    told_apart: tuple[float, float]


@dataclass(frozen=True)
class RiskCurves:
    """A drawing: its lines, and (place, text) of the marks of risk and of coverage; no lines where no pixel was counted."""

    lines: list[Line]
    rows: list[tuple[float, str]]
    columns: list[tuple[float, str]]
    left_out: list[str]
    open: bool  # whether pixels of these are counted; where the words name a background, they are of it
    stated: tuple[float, ...] = STATED

    @classmethod
    def of(cls, column: Column) -> RiskCurves:
        """Of a column, each method by its first seed, but for the AURC, which is over all."""
        coverage = torch.arange(1, POINTS + 1, dtype=torch.float64) / POINTS
        histograms = {m: result.histogram for m, result in column.shown.items() if result.histogram.any()}
        risks = {method: risk_at(histogram, coverage) for method, histogram in histograms.items()}
        highest = max((risk.max().item() for risk in risks.values()), default=0.0)
        step = next(step for step in (0.02, 0.05, 0.1, 0.2) if step == 0.2 or highest <= 5 * step)
        top = max(1, -int(-highest // step)) * step
        across = (LEFT + coverage * (RIGHT - LEFT)).tolist()
        lines = []
        for number, (method, risk) in enumerate(risks.items()):
            down = (BOTTOM - risk / top * (BOTTOM - TOP)).tolist()
            points = " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(across, down, strict=True))
            look = round(number * GOLDEN) % 360, DASHES[number % len(DASHES)]
            entry, histogram = column.entry(method), histograms[method]
            assert entry is not None
            coverages = [coverage_at(histogram, stated) for stated in STATED]
            lines.append(Line(method, *look, points, entry.aurc, coverages, told_apart(histogram)))
        marks = [n * step for n in range(round(top / step) + 1)]
        rows = [(BOTTOM - mark / top * (BOTTOM - TOP), f"{100 * mark:.0f}") for mark in marks]
        columns = [(LEFT + n / 5 * (RIGHT - LEFT), f"{20 * n}") for n in range(6)]
        left_out = next(iter(column.shown.values())).left_out
        return cls(lines, rows, columns, left_out, any(histogram[LEFT_OUT].any() for histogram in histograms.values()))
