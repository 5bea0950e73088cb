"""Files by name below a folder; :mod:`datamodules.reading.archives` has the same for zip and tar."""

from __future__ import annotations

import os
from pathlib import Path

from common.files import read_bytes, walk
from datamodules.reading.contents import Stamp, file_stamp


class Files:
    """Files below a folder.

    Args:
        where: the folder; in messages it stands before the file's name.
    """

    def __init__(self, where: str) -> None:
        self.where = where

    def names(self, folder: str = "") -> list[str]:
        """Names of the files directly in ``folder``, sorted; empty where there is no such folder."""
        path = Path(self.where, folder)
        return sorted(entry.name for entry in os.scandir(path) if entry.is_file()) if path.is_dir() else []

    def folders(self) -> list[str]:
        """Names of the folders directly inside, sorted."""
        return sorted(entry.name for entry in os.scandir(self.where) if entry.is_dir())

    def walk(self) -> list[str]:
        """Names of all files, however deep, sorted."""
        found = []
        for folder, _, names in walk(self.where):
            inside = os.path.relpath(folder, self.where)
            found += [name if inside == "." else f"{inside}/{name}" for name in names]
        return sorted(found)

    def has(self, folder: str) -> bool:
        """Whether there is such a folder."""
        return Path(self.where, folder).is_dir()

    def read(self, name: str) -> bytes:
        """The content of a file.

        Raises:
            UserError: missing or unreadable.
        """
        return read_bytes(Path(self.where, name))

    def stamp(self, name: str) -> Stamp:
        """What is known of a file without reading it."""
        return file_stamp(Path(self.where, name))

    def path(self, name: str) -> str:
        """The file's name for people."""
        return str(Path(self.where, name))
