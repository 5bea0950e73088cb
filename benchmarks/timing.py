"""Paired timing: ours and the rival in turn, so that a machine whose speed drifts still gives a fair ratio."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


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
    ours()
    rival()
    times = [(_seconds(ours), _seconds(rival)) for _ in range(runs)]
    ratios = [theirs / mine for mine, theirs in times]
    mine, theirs = (statistics.median(column) * 1e3 for column in zip(*times, strict=True))
    return Ratio(what, mine, theirs, statistics.median(ratios), min(ratios), max(ratios), "ms")


def peak_memory(what: str, module: str) -> Ratio:
    """Peak memory that ``python -m MODULE ours`` and ``... rival`` add, each in a process of its own."""
    mine, theirs = (_added_mib(module, side) for side in ("ours", "rival"))
    return Ratio(what, mine, theirs, theirs / mine, theirs / mine, theirs / mine, "MiB")


def print_added_memory(call: Callable[[], object]) -> None:
    """For the process that :func:`peak_memory` starts: MiB above what was there before the call (Linux)."""
    call()  # loads the code, which is memory too
    forget_peak()
    before = status_mib("VmRSS")
    call()
    print(status_mib("VmHWM") - before)


def forget_peak() -> None:
    """The peak of this process's memory, ``VmHWM``, starts anew (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")


def status_mib(key: str) -> float:
    """A line of this process's status in MiB, such as ``VmRSS``, what it holds, or ``VmHWM``, the most it held (Linux)."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) / 1024


def _seconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def _added_mib(module: str, side: str) -> float:
    kept = {"MALLOC_MMAP_THRESHOLD_": "131072"}  # else glibc keeps freed memory, and the second call seems to need little
    command = [sys.executable, "-m", module, side]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ | kept)
    return float(done.stdout.splitlines()[-1])
