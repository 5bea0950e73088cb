"""Where unlabelled pictures come from: a folder, a list of files, or tar shards and archives.

None of them looks at a picture before it is asked for, and all of them keep their names in a few flat arrays, so that
millions of files cost seconds and megabytes, and forked workers share them.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from datamodules.convert import run_all
from datamodules.files import OPEN_ARCHIVES, TarArchive, ZipArchive, open_archive, read_bytes
from datamodules.images import SUFFIXES
from zerolabel_common import UserError, atomic_path, cache_folder

LABEL_FOLDER = re.compile(
    r"SegmentationClass.*|SegmentationObject|annotations|stuffthingmaps.*|panoptic_.*|labels|masks|gtFine"
)


class PictureSource(ABC):
    """Pictures by number.

    Attributes:
        shards: (S,) pictures per shard, where order matters for speed; None for single files.
    """

    shards: NDArray[np.int64] | None = None

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def name(self, index: int) -> str:
        """The picture's file, for messages."""

    @abstractmethod
    def read(self, index: int) -> bytes:
        """The picture's file content."""

    @abstractmethod
    def caption(self, index: int) -> str:
        """What was said of the picture; "" where nothing was."""


def picture_source(images: str) -> PictureSource:
    """A folder (of pictures, or of tar shards), a ``.txt`` or ``.tsv`` list, an archive, or a pattern of shards.

    Args:
        images: such as ``/data/pictures``, ``list.txt``, ``val2017.zip``, ``cc12m/*.tar`` or ``cc12m/{00000..01242}.tar``.

    Raises:
        UserError: nothing there.
    """
    path = Path(images)
    if path.is_dir():
        shards = sorted(str(shard) for shard in path.glob("*.tar"))
        return ShardedPictures(shards) if shards else FolderPictures(images)
    if path.suffix in (".txt", ".tsv"):
        return ListedPictures(images)
    if path.is_file():
        return ShardedPictures([images])
    named = [Path(name) for name in expand_braces(images)]
    found = {name: sorted(str(file) for file in name.parent.glob(name.name)) for name in named}
    if absent := [name for name, files in found.items() if not files]:
        raise UserError(f"'{absent[0]}' does not exist. Give a folder, a list (.txt), an archive or a pattern of tar shards.")
    shards = [file for files in found.values() for file in files]
    return ShardedPictures(shards)


class ListedPictures(PictureSource):
    """A text file with a picture per line, relative to the list's folder, and its caption after a tab if there is one.

    Args:
        path: the list.
    """

    def __init__(self, path: str) -> None:
        self.path, self.folder = path, Path(path).parent
        self.text = np.frombuffer(read_bytes(path), np.uint8)
        ends = np.append(np.flatnonzero(self.text == ord("\n")), len(self.text))
        starts = np.append(0, ends[:-1] + 1)
        returns = self.text[np.minimum(starts, len(self.text) - 1)] == ord("\r") if len(self.text) else np.zeros(1, bool)
        filled = ends - starts > returns  # blank lines, of Windows too, are none
        self.starts, self.ends = starts[filled], ends[filled]
        if not len(self.starts):
            raise UserError(f"list '{path}' is empty.")

    def __len__(self) -> int:
        return len(self.starts)

    def _columns(self, index: int) -> list[str]:
        try:
            line = self.text[self.starts[index] : self.ends[index]].tobytes().decode()
        except UnicodeDecodeError as error:
            raise UserError(f"line {index + 1} of '{self.path}' is not UTF-8 text.") from error
        return [column.strip() for column in line.split("\t", 1)]

    def name(self, index: int) -> str:
        return str(self.folder / self._columns(index)[0])

    def read(self, index: int) -> bytes:
        return read_bytes(self.name(index))

    def caption(self, index: int) -> str:
        return next(iter(self._columns(index)[1:]), "")


class FolderPictures(ListedPictures):
    """All pictures below a folder in sorted order, except those in folders of labels; captions in ``.txt`` files beside.

    Only directories are listed, nothing is opened.

    Args:
        path: the folder.
    """

    def __init__(self, path: str) -> None:
        self.path, self.folder = path, Path(path)
        names = sorted(map(os.fsencode, walk(path)))
        if not names:
            raise UserError(f"no pictures found in '{path}' (looked for {', '.join(sorted(SUFFIXES))}).")
        self.text = np.frombuffer(b"".join(names), np.uint8)
        self.ends = np.cumsum([len(name) for name in names])
        self.starts = np.append(0, self.ends[:-1])

    def _columns(self, index: int) -> list[str]:
        return [os.fsdecode(self.text[self.starts[index] : self.ends[index]].tobytes())]

    def caption(self, index: int) -> str:
        beside = Path(self.name(index)).with_suffix(".txt")
        return beside.read_text(encoding="utf-8").strip() if beside.is_file() else ""


class ShardedPictures(PictureSource):
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


def is_picture(name: str) -> bool:
    """A picture's suffix, and no folder of labels above it."""
    *folders, file = name.split("/")
    return Path(file).suffix.lower() in SUFFIXES and not any(LABEL_FOLDER.fullmatch(folder) for folder in folders)


def walk(root: str) -> Iterator[str]:
    """Relative names of the pictures in a folder and its folders, without asking for more than the listings."""
    suffixes = tuple(SUFFIXES)
    for folder, below, files in os.walk(root):
        below[:] = [name for name in below if not LABEL_FOLDER.fullmatch(name)]
        inside = os.path.relpath(folder, root)
        start = "" if inside == "." else f"{inside}/"
        yield from (start + name for name in files if name.lower().endswith(suffixes))


def count_pictures(paths: list[str]) -> list[int]:
    """Pictures in each shard; see :class:`ShardedPictures`."""
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


def expand_braces(pattern: str) -> list[str]:
    """``"a{00..12}.tar"`` -> thirteen names; other patterns as they are."""
    found = re.fullmatch(r"(.*)\{(\d+)\.\.(\d+)\}(.*)", pattern)
    if not found:
        return [pattern]
    before, first, last, after = found.groups()
    return [f"{before}{number:0{len(first)}d}{after}" for number in range(int(first), int(last) + 1)]
