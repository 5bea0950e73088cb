"""The one store of everything kept on disk: text embeddings, views, mined masks, scores, results and fits.

An entry is found by a key that stands for all that went into it: digests of pictures and weights, every setting that changes
the values, and the code that made it. Nothing is found by a name that somebody typed, so two projects can share a cache. An
entry is a safetensors file that holds a digest of its key and content, which is checked whenever it is read: what is damaged
counts as absent, is said to be so in one line, and is made again by whoever asked for it. Entries are written whole or not at
all, so that any number of processes may write at once. :mod:`common.records` keeps many small contents in one entry.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load
from torch import Tensor

from common.distributed import gathered
from common.errors import UserError
from common.files import atomic_path, cache_folder, save_tensors

SUFFIX = ".safetensors"

_warned: set[Path] = set()


def key_of(**content: Any) -> str:
    """24 hex digits that stand for plain content (numbers, texts, lists, dicts) under its names.

    Raises:
        TypeError: something that is not plain, of which no two runs would have the same key.
    """
    with_text_keys = json.loads(json.dumps(content))  # those of {255: ..., cat: ...}, as YAML reads it, have no order
    text = json.dumps(with_text_keys, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()


@dataclass
class Entry:
    """What is kept under one key: tensors by name, and a note of plain values beside them."""

    tensors: dict[str, Tensor]
    note: dict[str, Any] = field(default_factory=dict)

    def digest(self, key: str) -> str:
        """32 hex digits over names, types, shapes and values, the note, and the key: a renamed entry is found out."""
        digest = hashlib.blake2b(f"{key} {json.dumps(self.note)}".encode(), digest_size=16)
        for name, value in sorted(self.tensors.items()):
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            digest.update(value.contiguous().flatten().view(torch.uint8).numpy().data)
        return digest.hexdigest()


class Kept:
    """The entries of one kind.

    Args:
        kind: what they are, such as ``"text"``; names their folder in the cache.
        folder: another folder than the cache's; ``auto`` for the cache's.
        required: the folder is the user's output, so that what cannot be written is an error. Otherwise it is a cache: a
            warning, and work goes on without.
    """

    def __init__(self, kind: str, folder: Path | str | None = None, required: bool = False) -> None:
        self.kind, self.required = kind, required
        self.folder = cache_folder(kind) if folder in (None, "auto") else Path(str(folder))

    def path(self, key: str) -> Path:
        """The file of an entry, whether it is there or not."""
        return self.folder / f"{key}{SUFFIX}"

    def keys(self, prefix: str = "") -> Iterator[str]:
        """Keys of the entries that are there, sorted."""
        names = sorted(path.name for path in self.folder.glob(f"{prefix}*{SUFFIX}") if not path.name.startswith("."))
        return (name.removesuffix(SUFFIX) for name in names)

    def read(self, key: str) -> Entry | None:
        """An entry; None where there is none, or a damaged or foreign one, which is said."""
        path = self.path(key)
        if not path.is_file():
            return None
        try:
            data = path.read_bytes()  # at once: another process may replace the file, which safe_open opens twice
            header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
            metadata = header["__metadata__"]
            entry = Entry(load(data), json.loads(metadata["note"]))
            whole = metadata["digest"] == entry.digest(key)
        except Exception:  # whatever is wrong with a file of another time or program, the remedy is the same
            whole = False
        if not whole:
            self.say_damaged(key)
            return None
        return entry

    def read_by_all(self, key: str) -> Entry | None:
        """The entry on every process, or None on all where one has none: machines with caches of their own may differ."""
        everyone = gathered([self.read(key)])
        return None if None in everyone else everyone[0]

    def write(self, key: str, tensors: Mapping[str, Tensor], note: Mapping[str, Any] | None = None) -> bool:
        """Keeps an entry; returns whether it could be written.

        Raises:
            UserError: it could not, and the folder is the user's output.
        """
        plain = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
        entry = Entry(plain, json.loads(json.dumps(dict(note or {}))))
        metadata = {"note": json.dumps(entry.note), "digest": entry.digest(key)}
        try:
            save_tensors(self.path(key), entry.tensors, metadata)
        except UserError as error:
            self._cannot_write(error)
            return False
        return True

    def tensors(self, key: str, make: Callable[[], Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """The tensors of an entry, made and kept if need be."""
        found = self.read(key)
        if found is not None:
            return found.tensors
        made = dict(make())
        self.write(key, made)
        return made

    def writable(self) -> bool:
        """Whether entries can be kept, before hours of work are spent on making them; if not, the warning says so.

        Raises:
            UserError: they cannot, and the folder is the user's output.
        """
        try:
            with atomic_path(self.folder / ".probe"):
                pass
            (self.folder / ".probe").unlink(missing_ok=True)
        except UserError as error:
            self._cannot_write(error)
            return False
        return True

    def remove(self, key: str) -> None:
        """Takes an entry out of the store, if it is there and the folder can be written."""
        with contextlib.suppress(OSError):
            self.path(key).unlink(missing_ok=True)

    def say_damaged(self, key: str) -> None:
        """One line about an entry that was not as it was written."""
        print(
            f"note: '{self.path(key)}' ({self.kind}) is damaged or of another program, and does not count.",
            file=sys.stderr,
            flush=True,
        )

    def _cannot_write(self, error: UserError) -> None:
        """Once a folder, for there may be thousands of entries."""
        if self.required:
            raise error
        if self.folder not in _warned:
            _warned.add(self.folder)
            cause = error.__cause__
            reason = getattr(cause, "strerror", None) or cause
            print(
                f"warning: {self.kind} cannot be kept in '{self.folder}' ({reason}); going on without. "
                "Set ZEROLABEL_CACHE to a folder that can be written.",
                file=sys.stderr,
                flush=True,
            )
