"""The same work on many items, on all cores, with a bar."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from rich.progress import track

AT_ONCE = 4096  # items handed out; a million at a time would be a gigabyte of bookkeeping


def run_all(items: list[Any], work: Callable[[Any], Any], what: str, shown: bool = True) -> list[Any]:
    """``work`` of every item, in order, on all cores (reading, decoding and compression free the interpreter), with a bar."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:

        def done() -> Iterator[Any]:
            for start in range(0, len(items), AT_ONCE):
                yield from pool.map(work, items[start : start + AT_ONCE])

        try:
            return list(track(done(), what, total=len(items), transient=True, disable=not (shown and items)))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
