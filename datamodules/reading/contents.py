"""What files hold, as digests: the keys under which everything made of a picture is kept.

A file is read once for its digest, which is then remembered by its path, size and times, so that the next run only asks for
those. The directory of a zip already holds a checksum of every entry, and nothing is read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from common.distributed import gathered, rank_and_world
from common.kept import Kept, key_of
from common.records import DIGEST, Contents, content_digest, rows_of
from datamodules.reading.convert import run_all


class Stamp(NamedTuple):
    """What is known of a file without reading it: a text that changes with the file, and whether it stands for the content."""

    text: str
    is_content: bool = False


def file_stamp(path: Path | str) -> Stamp:
    """Of a file on disk; one that is not there has its path alone, and whoever opens it says so."""
    try:
        stat = Path(path).stat()
    except OSError:
        return Stamp(str(Path(path).absolute()), is_content=True)
    return Stamp(f"{Path(path).absolute()} {stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns}")


def contents(place: str, stamps: Iterable[Stamp], read: Callable[[int], bytes]) -> Contents:
    """(N, 16) digests of what files hold.

    Several processes share the reading; all must ask.

    Args:
        place: where they lie; what was read of one place is remembered together.
        stamps: of the N files.
        read: the content of a file.
    """
    known = list(stamps)
    found = np.frombuffer(b"".join(content_digest(stamp.text.encode()) for stamp in known), np.uint8).reshape(-1, DIGEST).copy()
    to_read = np.flatnonzero([not stamp.is_content for stamp in known])
    if len(to_read):
        found[to_read] = _read_contents(place, found[to_read], lambda i: read(int(to_read[i])))
    return found


def _read_contents(place: str, stamps: Contents, read: Callable[[int], bytes]) -> Contents:
    store, key = Kept("contents"), key_of(place=str(Path(place).absolute()))
    before = store.read(key)
    known_stamps, known = np.zeros((0, DIGEST), np.uint8), np.zeros((0, DIGEST), np.uint8)
    if before is not None:
        known_stamps, known = before.tensors["stamps"].numpy(), before.tensors["contents"].numpy()
    rows = rows_of(known_stamps, stamps)
    result = np.zeros_like(stamps)
    result[rows >= 0] = known[rows[rows >= 0]]
    missing = np.flatnonzero(rows < 0)
    rank, world = rank_and_world()
    own = missing[rank::world].tolist()
    digests = run_all(own, lambda i: content_digest(read(i)), "reading pictures, once", shown=rank == 0)
    for i, digest in gathered(list(zip(own, digests, strict=True))):
        result[i] = np.frombuffer(digest, np.uint8)
    if len(missing) and rank == 0:
        tables = {"stamps": [known_stamps, stamps[missing]], "contents": [known, result[missing]]}
        store.write(key, {name: torch.from_numpy(np.concatenate(parts)) for name, parts in tables.items()})
    return result
