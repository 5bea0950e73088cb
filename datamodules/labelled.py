"""Labelled pictures in the files of a published data set: what every benchmark's datamodule is made of."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from common.batch import Item
from common.errors import UserError
from common.images import decode_image, decode_mask
from common.records import Contents, joined
from datamodules.base import Benchmark, DataModule
from datamodules.reading.contents import contents
from datamodules.reading.files import Files


class Labels(Protocol):
    """Where the label values of a picture come from."""

    def read(self, name: str) -> NDArray[Any]:
        """Label values (H, W), as the vocabulary's ``label_ids`` list them."""

    def path(self, name: str) -> str:
        """The file, for messages."""

    def known(self) -> set[str]:
        """Names of the pictures that have labels."""

    def content(self, names: list[str]) -> Contents:
        """(N, 16) digests of what the pictures' labels are read from."""


class FilePattern:
    """One file per picture: ``"JPEGImages/{}.jpg"``."""

    def __init__(self, files: Files, pattern: str) -> None:
        self.files = files
        self.folder, _, self.file = pattern.rpartition("/")
        self.pattern = pattern

    def name(self, picture: str) -> str:
        """The file of a picture."""
        return self.pattern.format(picture)

    def path(self, name: str) -> str:
        return self.files.path(self.name(name))

    def bytes(self, name: str) -> bytes:
        return self.files.read(self.name(name))

    def content(self, names: list[str]) -> Contents:
        """(N, 16) digests of the pictures' files."""
        files = [self.name(name) for name in names]
        return contents(self.files.where, (self.files.stamp(file) for file in files), lambda i: self.files.read(files[i]))

    def known(self) -> set[str]:
        start, end = self.file.split("{}")
        names = self.files.names(self.folder)
        return {n[len(start) : len(n) - len(end)] for n in names if n.startswith(start) and n.endswith(end)}


class MaskFiles(FilePattern):
    """Labels in index PNGs."""

    def read(self, name: str) -> NDArray[Any]:
        return decode_mask(self.bytes(name), self.path(name))


class LabelledPictures(Benchmark):
    """The pictures of a split with their masks, in the order of the published list.

    Args:
        names: pictures of the split.
        pictures: their files.
        labels: their labels.
        vocabulary: the label space that they are mapped to.
        source: the split's list, for messages.
        hint: the way out, after the message about a value that the label space does not have.
    """

    def __init__(
        self, names: list[str], pictures: FilePattern, labels: Labels, vocabulary: Any, source: str, hint: str = ""
    ) -> None:
        self.names, self.pictures, self.labels = names, pictures, labels
        self.vocabulary, self.source, self.hint = vocabulary, source, hint

    def __len__(self) -> int:
        return len(self.names)

    def missing(self) -> list[str]:
        """Files that the split names and that are not there."""
        return [part.path(name) for part in (self.pictures, self.labels) for name in sorted(set(self.names) - part.known())]

    def complete(self) -> LabelledPictures:
        """Itself.

        Raises:
            UserError: the split is empty or names an absent file.
        """
        if not self.names:
            raise UserError(f"{self.source} names no picture.")
        if missing := self.missing():
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise UserError(
                f"{self.source} names '{missing[0]}'{more}, which is not there. 'zerolabel prepare' lists all faults."
            )
        return self

    def content(self) -> str:
        """A digest of all pictures and labels."""
        return joined([self.pictures.content(self.names), self.labels.content(self.names)])

    def image(self, index: int) -> torch.Tensor:
        """(3, H, W) uint8, as stored: masks know no EXIF orientation."""
        name = self.names[index]
        return decode_image(self.pictures.bytes(name), self.pictures.path(name), upright=False)

    def mask(self, index: int) -> torch.Tensor:
        """Train ids (H, W) uint8.

        Raises:
            UserError: broken, or a value outside the label space.
        """
        name = self.names[index]
        values = self.labels.read(name)
        try:
            return torch.from_numpy(np.ascontiguousarray(self.vocabulary.to_train_ids(values)))
        except UserError as error:
            raise UserError(f"mask '{self.labels.path(name)}': {error}{self.hint}") from error

    def __getitem__(self, index: int) -> Item:
        image, mask = self.image(index), self.mask(index)
        if mask.shape != image.shape[1:]:
            path = self.labels.path(self.names[index])
            sizes = f"{tuple(mask.shape)} but its picture is {tuple(image.shape[1:])}"
            raise UserError(f"mask '{path}' is {sizes}. Is it of another picture?")
        return {"image": image, "mask": mask, "name": self.names[index], "index": index}


@dataclass(frozen=True)
class Published:
    """What a download holds.

    Attributes:
        counts: pictures per split.
        archives: published archive -> (address, MD5 or "").
    """

    counts: Mapping[str, int]
    archives: Mapping[str, tuple[str, str]]

    @property
    def addresses(self) -> str:
        return ", ".join(address for address, _ in self.archives.values())


class OriginalFiles(DataModule, ABC):
    """A benchmark in its original files: folders as they unpack, or the archives themselves.

    Args:
        root: where they lie.
        vocabulary: the label space.
        split: list of pictures.
        options: as of :class:`DataModule`.
    """

    published: ClassVar[Published]

    def __init__(self, root: str, vocabulary: str, split: str, **options: Any) -> None:
        super().__init__(self.label_space(vocabulary), **options)
        self.root, self.split = root, split

    @abstractmethod
    def picture_files(self) -> FilePattern:
        """Where the pictures are.

        Raises:
            UserError: they are not there.
        """

    @abstractmethod
    def label_files(self) -> Labels:
        """Where the labels are.

        Raises:
            UserError: they are not there.
        """

    @abstractmethod
    def listed(self, pictures: FilePattern, labels: Labels) -> tuple[list[str], str]:
        """The names of the split, and the list they are from.

        Raises:
            UserError: no such split.
        """

    @cached_property
    def pictures(self) -> LabelledPictures:
        """The split, not yet checked for completeness; kept, because labels in JSON take seconds to parse."""
        pictures, labels = self.picture_files(), self.label_files()
        names, source = self.listed(pictures, labels)
        return LabelledPictures(names, pictures, labels, self.vocabulary, source)

    def benchmark(self, split: str) -> LabelledPictures:
        """The pictures of the chosen split, for validation and test alike."""
        return self.pictures.complete()

    def describe(self) -> str:
        return f"{super().describe()}, {self.split}"
