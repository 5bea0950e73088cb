"""Where a number stands on a line: the scale of one column, as wide as its intervals and no wider."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from reporting.columns import Entry

LEAST = 0.02  # of the whole: a column of equal numbers still has a scale


@dataclass(frozen=True)
class Scale:
    """From one whole per cent to another, as fractions."""

    low: float
    high: float

    @classmethod
    def of(cls, entries: Iterable[Entry]) -> Scale:
        """One that holds every interval."""
        shown = list(entries)
        ends = [end for e in shown for end in (e.low, e.miou, e.high) if not math.isnan(end)] or [0.0, 1.0]
        low, high = math.floor(100 * min(ends)) / 100, math.ceil(100 * max(ends)) / 100
        if high - low < LEAST:
            low, high = max(0.0, low - LEAST / 2), low + LEAST
        return cls(low, high)

    def at(self, fraction: float) -> float:
        """Per cent of the line's length."""
        return 100 * (fraction - self.low) / (self.high - self.low)

    def plot(self, entry: Entry) -> dict[str, str]:
        """Left end and width of the interval's bar and place of its number, in CSS per cent; no bar without an interval."""
        low, high = (entry.miou if math.isnan(end) else end for end in (entry.low, entry.high))
        places = {"left": self.at(low), "width": self.at(high) - self.at(low), "point": self.at(entry.miou)}
        return {name: f"{place:.1f}%" for name, place in places.items()}
