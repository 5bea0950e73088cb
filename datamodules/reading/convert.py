"""Conversion of labels to index PNGs: parallel, resumable, each file whole or absent."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.progress import track

from common.files import atomic_path, writable_folder

T = TypeVar("T")


def convert_all(jobs: Mapping[str, T], draw: Callable[[T], NDArray[Any]], folder: Path) -> None:
    """Writes ``draw(job)`` (H, W) as ``folder/NAME.png`` for each name that is not there yet.

    Raises:
        UserError: if the folder cannot be written or the disk is full; what was written stays.
    """
    writable_folder(folder)
    there = {path.stem for path in folder.glob("*.png")}

    def convert(name: str) -> None:
        with atomic_path(folder / f"{name}.png") as path:
            Image.fromarray(draw(jobs[name]).astype(np.uint8)).save(path, "PNG")

    run_all([name for name in jobs if name not in there], convert, "converting")


def run_all(items: list[Any], work: Callable[[Any], Any], what: str) -> list[Any]:
    """``work`` of every item, in order, on all cores (decoding and compression free the interpreter), with a bar."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        try:
            return list(track(pool.map(work, items), what, total=len(items), transient=True))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
