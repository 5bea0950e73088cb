"""Unlabelled pictures by number, from a folder or a list of files; :mod:`datamodules.reading.shards` has archives.

No source looks at a picture before it is asked for, and all keep their names in a few flat arrays, so that millions of
files cost seconds and megabytes, and forked workers share them.
"""

from __future__ import annotations

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common.errors import UserError
from common.files import read_bytes
from common.files import walk as files_below
from common.images import SUFFIXES
from common.records import Contents
from datamodules.reading.contents import Stamp, contents, file_stamp

LABEL_FOLDER = re.compile(r"Segmentation(Class|Object).*|annotations|stuffthingmaps.*|panoptic_.*|labels|masks|gtFine")


class ImageSource(ABC):
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
    def stamp(self, index: int) -> Stamp:
        """What is known of a picture's file without reading it."""

    @property
    @abstractmethod
    def place(self) -> str:
        """Where the pictures lie."""

    def contents(self) -> Contents:
        """(N, 16) digests of the pictures' files."""
        return contents(self.place, (self.stamp(i) for i in range(len(self))), self.read)

    @abstractmethod
    def caption(self, index: int) -> str:
        """What was said of the picture; "" where nothing was."""


class ListedImages(ImageSource):
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

    def stamp(self, index: int) -> Stamp:
        return file_stamp(self.name(index))

    @property
    def place(self) -> str:
        return str(self.path)

    def caption(self, index: int) -> str:
        return next(iter(self._columns(index)[1:]), "")


class FolderImages(ListedImages):
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


def is_picture(name: str) -> bool:
    """A picture's suffix, and no folder of labels above it."""
    *folders, file = name.split("/")
    return Path(file).suffix.lower() in SUFFIXES and not any(LABEL_FOLDER.fullmatch(folder) for folder in folders)


def walk(root: str) -> Iterator[str]:
    """Relative names of the pictures in a folder and its folders, without asking for more than the listings."""
    suffixes = tuple(SUFFIXES)
    for folder, below, files in files_below(root):
        below[:] = [name for name in below if not LABEL_FOLDER.fullmatch(name)]
        inside = os.path.relpath(folder, root)
        start = "" if inside == "." else f"{inside}/"
        yield from (start + name for name in files if name.lower().endswith(suffixes))


def stem(name: str) -> str:
    """A picture's name without folder, archive and suffix."""
    return Path(name.rpartition(":")[2]).stem


class RemainingImages(ImageSource):
    """The pictures of a source that a list does not name.

    Args:
        source: all pictures.
        path: the list, a name per line with or without folder and suffix, such as VOC's ``ImageSets/Segmentation/val.txt``.

    Raises:
        UserError: it names none of the pictures, or all of them.
    """

    def __init__(self, source: ImageSource, path: str) -> None:
        named = {stem(line.split()[0]) for line in read_bytes(path).decode(errors="replace").splitlines() if line.strip()}
        kept = [i for i in range(len(source)) if stem(source.name(i)) not in named]
        if len(kept) in (0, len(source)):
            raise UserError(f"list '{path}' names {'all' if not kept else 'none'} of the pictures in '{source.place}'.")
        self.source, self.kept = source, np.array(kept)
        if source.shards is not None:
            ends = np.searchsorted(self.kept, source.shards.cumsum())
            self.shards = np.diff(ends, prepend=0)

    def __len__(self) -> int:
        return len(self.kept)

    def name(self, index: int) -> str:
        return self.source.name(int(self.kept[index]))

    def read(self, index: int) -> bytes:
        return self.source.read(int(self.kept[index]))

    def stamp(self, index: int) -> Stamp:
        return self.source.stamp(int(self.kept[index]))

    @property
    def place(self) -> str:
        return self.source.place

    def caption(self, index: int) -> str:
        return self.source.caption(int(self.kept[index]))
