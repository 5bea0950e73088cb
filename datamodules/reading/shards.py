"""Tar shards (img2dataset, webdataset) and whole archives as sources of pictures."""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from pathlib import Path

import numpy as np

from common.errors import UserError
from common.files import atomic_path, cache_folder
from datamodules.reading.archives import OPEN_ARCHIVES, TarArchive, ZipArchive, open_archive
from datamodules.reading.convert import run_all
from datamodules.reading.sources import ImageSource, is_picture


class ShardedImages(ImageSource):
    """Tar shards as img2dataset and webdataset write them (``KEY.jpg`` with ``KEY.txt``), or any zip or tar of pictures.

    How many pictures a shard holds is read from ``SHARD_stats.json`` where img2dataset left one; other shards are listed
    once (their headers, no picture) and the counts kept in the cache.

    Args:
        paths: the shards.
    """

    def __init__(self, paths: list[str]) -> None:
        self.paths = paths
        self.sizes = self.shards = np.array(count_pictures(paths), np.int64)
        self.ends = np.cumsum(self.sizes)
        if not self.ends[-1]:
            raise UserError(f"no pictures in '{paths[0]}'{' and the other shards' if len(paths) > 1 else ''}.")

    def __len__(self) -> int:
        return int(self.ends[-1])

    def _place(self, index: int) -> tuple[ZipArchive | TarArchive, str]:
        shard = int(np.searchsorted(self.ends, index, side="right"))
        archive = open_archive(self.paths[shard])
        names, position = pictures_in(archive), index - int(self.ends[shard] - self.sizes[shard])
        if position >= len(names):
            raise UserError(f"'{self.paths[shard]}' holds {len(names)} pictures, its _stats.json says {self.sizes[shard]}.")
        return archive, names[position]

    def name(self, index: int) -> str:
        archive, name = self._place(index)
        return f"{archive.where}:{name}"

    def read(self, index: int) -> bytes:
        archive, name = self._place(index)
        return archive.read(name)

    def caption(self, index: int) -> str:
        archive, name = self._place(index)
        folder, _, file = name.rpartition("/")
        beside = f"{file.partition('.')[0]}.txt"  # webdataset's key ends at the first dot
        if beside not in archive.folders[folder]:
            return ""
        return archive.read(f"{folder}/{beside}" if folder else beside).decode("utf-8", "replace").strip()


@lru_cache(OPEN_ARCHIVES)
def pictures_in(archive: ZipArchive | TarArchive) -> list[str]:
    """Names of an archive's pictures, in its order."""
    return [name for name in archive.members if is_picture(name)]


def count_pictures(paths: list[str]) -> list[int]:
    """Pictures in each shard; see :class:`ShardedImages`."""
    counts = [stated_count(path) for path in paths]
    unknown = [path for path, count in zip(paths, counts, strict=True) if count is None]
    keys = [f"{path} {stat.st_size} {stat.st_mtime_ns}" for path in unknown for stat in [Path(path).stat()]]
    kept = cache_folder("shards", hashlib.sha256("\n".join(keys).encode()).hexdigest()[:12] + ".json")
    listed: list[int] = json.loads(kept.read_text()) if kept.is_file() else []
    if unknown and not listed:
        listed = run_all(unknown, lambda path: len(pictures_in(open_archive(path))), "listing shards")
        with atomic_path(kept) as file:
            file.write_text(json.dumps(listed))
    rest = iter(listed)
    return [next(rest) if count is None else count for count in counts]


def stated_count(path: str) -> int | None:
    """img2dataset's own count of a shard, or None."""
    stats = Path(path.removesuffix(".tar") + "_stats.json")
    try:
        return int(json.loads(stats.read_text())["successes"])
    except (OSError, ValueError, KeyError):
        return None
