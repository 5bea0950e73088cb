"""What a format is: a folder written from annotated pictures, one at a time, after all that speaks against it was said."""

from __future__ import annotations

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path, PurePath
from typing import Any, ClassVar, Literal, TextIO

from common.errors import UserError
from evaluation.vocabulary import Vocabulary
from reporting.exports.mask_files import mask_classes
from reporting.exports.records import Annotations

Places = Literal["none", "relative", "absolute"]


class Format(ABC):
    """A layout of files that other tools read; its name is the class's in small letters.

    Attributes:
        by_stem: it calls a picture by its name without the suffix, so that no two may share one.
        places: how its files say where the pictures lie, which only some do.
    """

    by_stem: ClassVar[bool] = False
    places: ClassVar[Places] = "none"

    def check(self, vocabulary: Vocabulary, pictures: list[str]) -> None:
        """Says before the first picture what the format cannot hold.

        Raises:
            UserError: classes or pictures that it has no place for.
        """
        mask_classes(vocabulary)
        if not self.by_stem:
            return
        seen: dict[PurePath, str] = {}
        for name in pictures:
            stem = PurePath(name).with_suffix("")
            if stem in seen:
                raise UserError(f"'{seen[stem]}' and '{name}' would be one entry of {self.name()}. Rename one of them.")
            seen[stem] = name

    @abstractmethod
    def write(self, annotations: Annotations, folder: Path) -> None:
        """Writes all pictures into an empty folder, which is thrown away if that fails."""

    @classmethod
    def name(cls) -> str:
        return cls.__name__.lower()


def write_items(file: TextIO, items: Iterable[Any]) -> None:
    """A JSON list, an item a line, of which one is in memory at a time."""
    separator = "["
    for item in items:
        file.write(f"{separator}\n{json.dumps(item)}")
        separator = ","
    file.write("[]" if separator == "[" else "\n]")


def beside(path: Path) -> Path:
    """The path, whose folder is there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def relative(path: Path, folder: Path) -> str:
    """The path from a folder, with ``/`` on every system; the whole path where there is none, on another drive."""
    try:
        return Path(os.path.relpath(path, folder)).as_posix()
    except ValueError:
        return path.resolve().as_posix()
