"""Tar shards (img2dataset, webdataset) and whole archives as sources of pictures."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from common.errors import UserError
from common.kept import Kept, key_of
from datamodules.reading.archives import OPEN_ARCHIVES, TarArchive, ZipArchive, open_archive
from datamodules.reading.contents import Stamp, file_stamp
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

    def stamp(self, index: int) -> Stamp:
        archive, name = self._place(index)
        return archive.stamp(name)

    @property
    def place(self) -> str:
        return self.paths[0]

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
    key = key_of(shards=[file_stamp(path).text for path in unknown])

    def listed() -> dict[str, Tensor]:
        return {"counts": torch.tensor(run_all(unknown, lambda path: len(pictures_in(open_archive(path))), "listing shards"))}

    found = Kept("shards").tensors(key, listed)["counts"].tolist() if unknown else []
    rest = iter(found)
    return [next(rest) if count is None else count for count in counts]


def stated_count(path: str) -> int | None:
    """img2dataset's own count of a shard, or None."""
    stats = Path(path.removesuffix(".tar") + "_stats.json")
    try:
        return int(json.loads(stats.read_text())["successes"])
    except (OSError, ValueError, KeyError):
        return None
