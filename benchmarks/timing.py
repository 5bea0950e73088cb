"""Paired timing: ours and the rival in turn, so that a machine whose speed drifts still gives a fair ratio."""

from __future__ import annotations

import multiprocessing
import resource
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Ratio:
    """How many times faster (or smaller) ours is than the rival: the median over paired runs, and the range."""

    what: str
    ours: float
    rival: float
    median: float
    low: float
    high: float
    unit: str

    def __str__(self) -> str:
        return (
            f"{self.what:<64} {self.median:6.2f}x  ({self.low:.2f} to {self.high:.2f})   "
            f"ours {self.ours:.4g} {self.unit}, rival {self.rival:.4g} {self.unit}"
        )


def paired(what: str, ours: Callable[[], object], rival: Callable[[], object], runs: int = 7) -> Ratio:
    """Times both in turn, after one warm-up each."""
    ours(), rival()
    times = [(_seconds(ours), _seconds(rival)) for _ in range(runs)]
    ratios = [theirs / mine for mine, theirs in times]
    mine, theirs = (statistics.median(column) * 1e3 for column in zip(*times, strict=True))
    return Ratio(what, mine, theirs, statistics.median(ratios), min(ratios), max(ratios), "ms")


def peak_memory(what: str, ours: Callable[[], object], rival: Callable[[], object]) -> Ratio:
    """Peak memory that each adds in a process of its own."""
    mine, theirs = _peak_mib(ours), _peak_mib(rival)
    return Ratio(what, mine, theirs, theirs / mine, theirs / mine, theirs / mine, "MiB")


def _seconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def _peak_mib(call: Callable[[], object]) -> float:
    context = multiprocessing.get_context("fork")
    queue = context.Queue()

    def child() -> None:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        call()
        queue.put((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)

    process = context.Process(target=child)
    process.start()
    mib = float(queue.get())
    process.join()
    return max(mib, 0.1)
