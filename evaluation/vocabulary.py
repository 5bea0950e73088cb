"""Vocabulary: which classes there are, and which words are asked for each of them."""

from __future__ import annotations

import colorsys
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml
from numpy.typing import NDArray

from common.errors import UserError, in_one_line, known
from common.files import read_bytes, read_lines

if TYPE_CHECKING:
    from torch import Tensor

FOLDER = Path(__file__).parent / "vocabularies"
MAX_CLASS_FILE_BYTES = 1_000_000
KEYS = {"names", "background", "title", "wordings", "label_ids", "other_labels", "colours"}

Wording = Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Vocabulary:
    """A label space.

    Attributes:
        name: its name in results.
        names: class names in train-id order.
        background: train id of the background class, or None.
        title: one line for people.
        wordings: per wording (a paper's list of words), the words asked for a class where they are not its name.
        label_ids: value in the dataset's label files -> train id (or 255); None where masks hold train ids.
        other_labels: train id of the values that ``label_ids`` does not list; None makes such a value an error.
        wording: the wording in use.
        ignore_index: train id that is not counted.
        colours: "bright" or "voc", see :attr:`palette`.
        left_out: classes of the masks that no words are asked for, see :meth:`without`.
    """

    name: str
    names: tuple[str, ...]
    background: int | None = None
    title: str = ""
    wordings: Mapping[str, Wording] = field(default_factory=dict)
    label_ids: Mapping[int, int] | None = None
    other_labels: int | None = None
    wording: str = "names"
    ignore_index: int = 255
    colours: str = "bright"
    left_out: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.names:
            raise UserError("the class list is empty. Give names such as 'cat; dog, puppy; sky'.")
        if repeated := sorted({n for n in self.names if self.names.count(n) > 1}):
            raise UserError(f"duplicate classes in '{self.name}': {', '.join(repeated)}. Name each class once.")
        if len(self.names) > self.ignore_index:
            raise UserError(f"'{self.name}' has {len(self.names)} classes; label maps hold at most {self.ignore_index}.")

    @staticmethod
    def known_names() -> list[str]:
        return sorted(path.stem for path in FOLDER.glob("*.yaml"))

    @classmethod
    def load(cls, name: str, wording: str = "names") -> Vocabulary:
        """Loads a shipped label space, ``"voc21"``, or a file of the same form, optionally in a paper's wording, ``"sclip"``.

        Raises:
            UserError: unknown name, no such file, or one that says something else.
        """
        if Path(name).suffix in (".yaml", ".yml"):
            return read_vocabulary(Path(name)).worded(wording)
        known("vocabulary", name, cls.known_names())
        return read_vocabulary(FOLDER / f"{name}.yaml").worded(wording)

    @classmethod
    def parse(cls, text: str) -> Vocabulary:
        """Reads free text, ``"cat; dog, puppy; sky"``: ``;`` or a new line between classes, ``,`` between synonyms.

        A class's name is its first word; a class named ``background`` is the background. The path of a ``.txt`` file
        is read as its content, without blank lines and lines that start with ``#``.

        Raises:
            UserError: no class, an empty class, or a name twice.
        """
        if text.strip().endswith(".txt"):
            text = _read_class_file(Path(text.strip()))
        lines = text.replace("\n", ";").strip("; ")
        classes = [[word.strip() for word in line.split(",")] for line in lines.split(";")] if lines else []
        for words in classes:
            if not all(words):
                raise UserError(f"an empty class or synonym in '{text.strip()}'. Separate classes by ';', synonyms by ','.")
        names = tuple(words[0] for words in classes)
        background = names.index("background") if "background" in names else None
        asked = {words[0]: tuple(words) for words in classes if len(words) > 1}
        return cls("free text", names, background, wordings={"free text": asked}, wording="free text")

    @classmethod
    def named(cls, text: str) -> Vocabulary:
        """A shipped label space by its name, a vocabulary file (``.yaml``), or else free text."""
        is_file = text.strip().endswith((".yaml", ".yml"))
        return cls.load(text.strip()) if is_file or text in cls.known_names() else cls.parse(text)

    def with_ids(self, label_ids: Mapping[int, int]) -> Vocabulary:
        """The same classes, stored in label files as other values; a value that is not listed is an error."""
        return replace(self, label_ids=dict(label_ids), other_labels=None)

    def with_background(self) -> Vocabulary:
        """The same classes after one named ``background``, unless they have one."""
        if self.background is not None:
            return self
        return replace(self, names=("background", *self.names), background=0, label_ids=None)

    def without(self, classes: Sequence[str]) -> Vocabulary:
        """Another label space on the same masks, whose words leave some classes out.

        Their pixels are background where there is one, as all is that has no word; else they become :attr:`none`.

        Raises:
            UserError: not one of the classes, the background, or nothing is left.
        """
        out = [known(f"class of '{self.name}' to leave out", name, self.names) for name in classes]
        if self.background is not None and self.names[self.background] in out:
            raise UserError(f"'{self.names[self.background]}' cannot be left out: it is what has no word.")
        names = tuple(name for name in self.names if name not in out)
        if len(names) <= (self.background is not None):
            raise UserError(f"'{self.name}' without {', '.join(out)} has no class left. Leave fewer out.")
        background = None if self.background is None else names.index(self.names[self.background])
        rest = len(names) if background is None else background
        new_id = {k: names.index(name) if name in names else rest for k, name in enumerate(self.names)}
        new_id[self.ignore_index] = self.ignore_index
        label_ids = self.label_ids or {k: k for k in new_id}
        return replace(
            self,
            name=f"{self.name} without {', '.join(out)}",
            names=names,
            background=background,
            label_ids={value: new_id[k] for value, k in label_ids.items()},
            other_labels=None if self.other_labels is None else new_id[self.other_labels],
            left_out=(*self.left_out, *out),
        )

    @property
    def none(self) -> int | None:
        """The train id, in masks alone, of what the words leave out; None where they leave nothing out or name a background."""
        return self.num_classes if self.left_out and self.background is None else None

    def named_only(self, mask: Tensor) -> Tensor:
        """A mask (H, W) of train ids, in which what the words leave out does not count."""
        return mask if self.none is None else mask.masked_fill(mask == self.none, self.ignore_index)

    def worded(self, wording: str) -> Vocabulary:
        """The same classes asked with another list of words; a vocabulary without that list keeps its own words."""
        if wording != "names" and wording not in self.wordings:
            return self
        return replace(self, wording=wording)

    @property
    def num_classes(self) -> int:
        return len(self.names)

    @cached_property
    def queries(self) -> tuple[tuple[str, ...], ...]:
        """The words asked for each class, in train-id order."""
        words = self.wordings.get(self.wording, {})
        return tuple(words.get(name, (name,)) for name in self.names)

    def words_and_classes(self, with_background: bool) -> tuple[list[str], list[int]]:
        """All words in order and the class of each; the background's words only if ``with_background``."""
        pairs = [(word, k) for k, words in enumerate(self.queries) if with_background or k != self.background for word in words]
        return [word for word, _ in pairs], [k for _, k in pairs]

    def to_train_ids(self, labels: NDArray[Any]) -> NDArray[np.uint8]:
        """Maps the values of a label file to train ids.

        Raises:
            UserError: a value outside the label space.
        """
        if self.label_ids is None:
            return labels
        table = np.full(max(256, max(self.label_ids) + 2), -1, np.int64)  # the last entry is for all that is larger
        if self.other_labels is not None:
            table[:] = self.other_labels
        table[list(self.label_ids)] = list(self.label_ids.values())
        mapped = table[labels if labels.dtype == np.uint8 else np.minimum(labels, len(table) - 1)]
        if (mapped < 0).any():
            value, has = labels[mapped < 0].flat[0], _spans(self.label_ids)
            raise UserError(f"mask value {value} is not in the label space '{self.name}', which has {has}.")
        return mapped.astype(np.uint8)

    @cached_property
    def palette(self) -> NDArray[np.uint8]:
        """(num_classes, 3) RGB, black for the background: PASCAL VOC's own colours for VOC, else bright spread hues."""
        ids = np.arange(self.num_classes) + (self.background != 0)
        if self.colours == "voc":
            return np.stack([_spread_bits(ids >> channel) for channel in range(3)], axis=1)
        golden = 0.618034  # steps of the golden ratio keep neighbours apart
        hsv = [((k * golden) % 1, (0.95, 0.6, 0.8)[k % 3], (1.0, 0.75, 0.9)[k // 3 % 3]) for k in ids.tolist()]
        rgb = (np.array([colorsys.hsv_to_rgb(*c) for c in hsv]) * 255).astype(np.uint8)
        if self.background is not None:
            rgb[self.background] = 0
        return rgb

    @property
    def hash(self) -> str:
        """12 hex digits over names, words, background and id map."""
        content = [self.names, self.queries, self.background, sorted((self.label_ids or {}).items()), self.other_labels]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:12]


def read_vocabulary(path: Path) -> Vocabulary:
    """A label space from its YAML file, of which :mod:`evaluation.vocabularies` has the shipped ones.

    Raises:
        UserError: no such file, not YAML, a key that means nothing here, or one of another type.
    """
    try:
        entry = yaml.safe_load(read_bytes(path).decode("utf-8-sig"))
        if not isinstance(entry, dict):
            raise TypeError("it holds no keys")
        if unknown := sorted(set(entry) - KEYS):
            raise UserError(f"vocabulary file '{path}': unknown key '{unknown[0]}'. Known: {', '.join(sorted(KEYS))}.")
        names = tuple(str(name) for name in entry["names"])
        background = entry.get("background")
        return Vocabulary(
            name=path.stem,
            names=names,
            background=None if background is None else names.index(known("background class", background, names)),
            title=entry.get("title", path.stem),
            wordings={
                wording: {known("class", c, names): tuple(words) for c, words in of_class.items()}
                for wording, of_class in entry.get("wordings", {}).items()
            },
            label_ids=entry.get("label_ids"),
            other_labels=entry.get("other_labels"),
            colours=entry.get("colours", "bright"),
        )
    except UserError:
        raise
    except (yaml.YAMLError, UnicodeDecodeError, TypeError, KeyError, AttributeError, ValueError) as error:
        reason = in_one_line(error)
        raise UserError(
            f"vocabulary file '{path}' is not as it should be ({reason}); it needs at least 'names: [...]'."
        ) from error


def _spans(ids: Iterable[int]) -> str:
    """``0 to 20, 255``."""
    runs = [[one for _, one in run] for _, run in groupby(enumerate(sorted(ids)), lambda pair: pair[1] - pair[0])]
    return ", ".join(f"{run[0]} to {run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


def _spread_bits(ids: NDArray[np.int64]) -> NDArray[np.uint8]:
    """VOC's rule: bits 0, 3, 6 of the id become the high bits of a channel, most significant first."""
    bits = [((ids >> 3 * j) & 1) << (7 - j) for j in range(3)]
    return np.sum(bits, axis=0).astype(np.uint8)


def _read_class_file(path: Path) -> str:
    if not path.is_file():
        raise UserError(f"class file '{path}' does not exist. Give a text file or words such as 'cat; dog'.")
    if path.stat().st_size > MAX_CLASS_FILE_BYTES:
        raise UserError(f"class file '{path}' is larger than {MAX_CLASS_FILE_BYTES} bytes; is it a list of words?")
    return "\n".join(read_lines(path, "class file"))
