"""One's own pictures with masks: a benchmark by options alone."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.errors import UserError, known
from common.files import read_lines
from common.images import SUFFIXES, decode_colours, decode_mask
from datamodules.base import DataModule
from datamodules.labelled import FilePattern, LabelledPictures
from datamodules.reading.archives import Archive, open_archive
from datamodules.reading.files import Files
from evaluation.vocabulary import Vocabulary

LISTED = 5  # names that an error shows
IDS_HINT = " --data.ids says what values mean: '{0: background, 7: cat, 9: 255}', with 255 for what is not counted."
NOT_NAMED = "which --data.colours does not name; what is not counted goes by 255: '{255: \"#ffffff\", cat: ...}'."
MASK_SUFFIXES = {".png", ".bmp", ".tif", ".tiff"}


class Folder(DataModule):
    """Pictures and masks of the same names, in folders (however deep) or archives.

    Args:
        images: folder, ``.zip`` or ``.tar`` of the pictures.
        masks: the same of the masks: greyscale or indexed PNGs whose values are ids, or RGB ones with ``colours``.
        classes: a vocabulary: a shipped one by its name, a file (``.yaml``, ``.txt``), or text, ``"background; cat; dog"``.
        mask_name: how a mask is called, with ``{}`` for its picture's name without suffix: ``"{}_label.png"``.
        ids: value in a mask -> class name, or 255 for what is not counted: ``{0: background, 7: cat, 9: 255}``. Without it the
            values are positions in ``classes``, as the vocabulary says.
        colours: class name, or 255 -> colour of an RGB mask: ``{cat: "#ff0000"}``; colours that are not named are errors.
        listing: a text file with the names of the pictures to score, a line each, with or without suffix; all if None.
        options: as of :class:`DataModule`.
    """

    def __init__(
        self,
        images: str,
        masks: str,
        classes: str,
        mask_name: str = "{}.png",
        ids: dict[int, str | int] | None = None,
        colours: dict[str, str] | None = None,
        listing: str | None = None,
        **options: Any,
    ) -> None:
        vocabulary = Vocabulary.named(classes)
        if "{}" not in mask_name:
            raise UserError(f"--data.mask_name is '{mask_name}'; it needs {{}} where the picture's name goes.")
        if ids is not None and colours is not None:
            raise UserError("masks hold ids or colours: give --data.ids or --data.colours, not both.")
        if ids is not None:
            vocabulary = vocabulary.with_ids({value: train_id(vocabulary, name) for value, name in ids.items()})
        elif vocabulary.label_ids is None:
            own = {k: k for k in range(vocabulary.num_classes)}
            vocabulary = vocabulary.with_ids(own | {vocabulary.ignore_index: vocabulary.ignore_index})
        super().__init__(vocabulary, **options)
        self.images, self.masks, self.mask_name, self.listing = images, masks, mask_name, listing
        self.colours = None
        if colours is not None:
            self.colours = {colour_code(text): train_id(vocabulary, name) for name, text in colours.items()}

    def describe(self) -> str:
        return f"{super().describe()}, {self.images}, {self.masks}" + (f", {self.listing}" if self.listing else "")

    @cached_property
    def pictures(self) -> LabelledPictures:
        """The pairs.

        Raises:
            UserError: a picture without a mask or a mask without a picture, listed.
        """
        files = place(self.images, "images")
        images = FoundFiles(files, "{}", {without_suffix(name, SUFFIXES): name for name in with_suffix(files, SUFFIXES)})
        labels = OwnMasks(place(self.masks, "masks"), self.mask_name, self.colours)
        names = images.known() if self.listing is None else set(self._listed())
        _complete(names - images.known(), f"'{self.listing}' names", f"not in '{self.images}'")
        _complete(names - labels.known(), f"'{self.images}' holds", f"without a mask '{self.mask_name}' in '{self.masks}'")
        if self.listing is None:
            _complete(labels.known() - names, f"'{self.masks}' holds masks of", f"of which '{self.images}' has no picture")
        return LabelledPictures(sorted(names), images, labels, self.vocabulary, f"'{self.images}'", IDS_HINT)

    def benchmark(self, split: str) -> LabelledPictures:
        """The same pictures for validation and test."""
        return self.pictures.complete()

    def _listed(self) -> list[str]:
        return [without_suffix(line, SUFFIXES) for line in read_lines(str(self.listing), "list")]


class FoundFiles(FilePattern):
    """Files by the names of their pictures, which hold the folders above them.

    Args:
        files: where they lie.
        pattern: how a file that is not there would be called.
        file_of: picture -> file.
    """

    def __init__(self, files: Files, pattern: str, file_of: dict[str, str]) -> None:
        super().__init__(files, pattern)
        self.file_of = file_of

    def name(self, picture: str) -> str:
        return self.file_of.get(picture) or super().name(picture)

    def known(self) -> set[str]:
        return set(self.file_of)


class OwnMasks(FoundFiles):
    """Masks of ids, or of colours that stand for train ids."""

    def __init__(self, files: Files, pattern: str, colours: dict[int, int] | None) -> None:
        start, end = pattern.split("{}", 1)
        file_of = {}
        for name in with_suffix(files, MASK_SUFFIXES):
            folder, slash, file = name.rpartition("/")
            if file.startswith(start) and file.endswith(end) and len(file) >= len(start) + len(end):
                file_of[folder + slash + file[len(start) : len(file) - len(end)]] = name
        super().__init__(files, pattern, file_of)
        self.colours = colours

    def read(self, name: str) -> NDArray[Any]:
        if self.colours is None:
            return decode_mask(self.bytes(name), self.path(name))
        codes = decode_colours(self.bytes(name), self.path(name))
        found, where = np.unique(codes, return_inverse=True)
        if unknown := [code for code in found.tolist() if code not in self.colours]:
            raise UserError(f"mask '{self.path(name)}' holds the colour #{unknown[0]:06x}, {NOT_NAMED}")
        return np.array([self.colours[code] for code in found.tolist()], np.uint8)[where].reshape(codes.shape)


def place(where: str, option: str) -> Files:
    """A folder, or an archive.

    Raises:
        UserError: not there.
    """
    path = Path(where)
    if path.is_dir():
        return Files(where)
    if path.is_file():
        return Archive(open_archive(path))
    raise UserError(f"'{where}' does not exist. Set --data.{option} to a folder, a .zip or a .tar.")


def with_suffix(files: Files, suffixes: set[str]) -> list[str]:
    """Names of the files, however deep, that end in one of the suffixes."""
    return [name for name in files.walk() if Path(name).suffix.lower() in suffixes]


def without_suffix(name: str, suffixes: set[str]) -> str:
    """``a/b.jpg`` -> ``a/b``; a name that does not end in one of the suffixes stays."""
    suffix = Path(name).suffix
    return name[: -len(suffix)] if suffix.lower() in suffixes else name


def train_id(vocabulary: Vocabulary, name: str | int) -> int:
    """Of a class by its name; 255 stands for what is not counted.

    Raises:
        UserError: no such class.
    """
    if str(name) == str(vocabulary.ignore_index):
        return vocabulary.ignore_index
    return vocabulary.names.index(known(f"class of '{vocabulary.name}'", str(name), vocabulary.names))


def colour_code(text: str) -> int:
    """``"#ff8000"`` -> 0xff8000.

    Raises:
        UserError: no colour.
    """
    digits = text.removeprefix("#")
    try:
        if len(digits) != 6:
            raise ValueError
        return int(digits, 16)
    except ValueError as error:
        raise UserError(f"'{text}' is no colour. Write it as '#rrggbb'.") from error


def _complete(absent: set[str], who: str, what: str) -> None:
    if absent:
        shown = ", ".join(sorted(absent)[:LISTED])
        more = f" and {len(absent) - LISTED} more" if len(absent) > LISTED else ""
        raise UserError(f"{who} {shown}{more}, {what}.")
