"""The one store of everything kept on disk: text embeddings, views, mined masks, scores, results and fits.

An entry is found by a key that stands for all that went into it: digests of pictures and weights, every setting that changes
the values, and the code that made it. Nothing is found by a name that somebody typed, so two projects can share a cache. Each
entry ends in a digest of its content and its key, which is checked whenever it is read: what is damaged counts as absent, is
said to be so in one line, and is made again by whoever asked for it. Entries are written whole or not at all, so that any
number of processes may write at once.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load, save
from torch import Tensor

from common.errors import UserError
from common.files import atomic_path, cache_folder

DIGEST_BYTES = 16
NOTE = "note"  # under which safetensors' metadata holds what an entry says beside its tensors

_warned: set[Path] = set()


def key_of(**content: Any) -> str:
    """24 hex digits that stand for plain content (numbers, texts, lists, dicts) under its names.

    Raises:
        TypeError: something that is not plain, of which no two runs would have the same key.
    """
    text = json.dumps(content, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()


class Kept:
    """The entries of one kind.

    Args:
        kind: what they are, such as ``"text"``; names their folder in the cache.
        folder: another folder than the cache's.
        suffix: of the files, for people.
        required: the folder is the user's output, so that what cannot be written is an error. Otherwise it is a cache: a
            warning, and work goes on without.
    """

    def __init__(
        self, kind: str, folder: Path | str | None = None, suffix: str = ".safetensors", required: bool = False
    ) -> None:
        self.kind, self.suffix, self.required = kind, suffix, required
        self.folder = cache_folder(kind) if folder is None else Path(folder)

    def path(self, key: str) -> Path:
        """The file of an entry, whether it is there or not."""
        return self.folder / f"{key}{self.suffix}"

    def keys(self) -> Iterator[str]:
        """Keys of the entries that are there, sorted."""
        names = sorted(path.name for path in self.folder.glob(f"*{self.suffix}") if not path.name.startswith("."))
        return (name.removesuffix(self.suffix) for name in names)

    def read(self, key: str) -> bytes | None:
        """The content of an entry; None where there is none, or a damaged one."""
        path = self.path(key)
        try:
            data = path.read_bytes()
        except OSError:
            return None
        content, digest = data[:-DIGEST_BYTES], data[-DIGEST_BYTES:]
        if digest == _digest(key, content):
            return content
        self._damaged(path)
        return None

    def write(self, key: str, content: bytes) -> bool:
        """Keeps an entry; returns whether it could be written.

        Raises:
            UserError: it could not, and the folder is the user's output.
        """
        try:
            with atomic_path(self.path(key)) as path:
                path.write_bytes(content + _digest(key, content))
        except UserError as error:
            if self.required:
                raise
            self._warn(error)
            return False
        return True

    def read_tensors(self, key: str) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Tensors by name and the note beside them; None where there is no entry, or a damaged or foreign one."""
        content = self.read(key)
        if content is None:
            return None
        try:
            return load(content), json.loads(_metadata(content).get(NOTE, "{}"))
        except Exception:  # whatever is wrong with a file of another time or program, the remedy is the same
            self._damaged(self.path(key))
            return None

    def write_tensors(self, key: str, tensors: Mapping[str, Tensor], note: Mapping[str, Any] | None = None) -> bool:
        """Keeps tensors and a note of plain values; see :meth:`write`."""
        plain = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
        return self.write(key, save(plain, {NOTE: json.dumps(dict(note or {}))}))

    def tensors(self, key: str, make: Callable[[], Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """The tensors of an entry, made and kept if need be."""
        found = self.read_tensors(key)
        if found is not None:
            return found[0]
        made = dict(make())
        self.write_tensors(key, made)
        return made

    def remove(self, key: str) -> None:
        """Takes an entry out of the store, if it is there and the folder can be written."""
        with contextlib.suppress(OSError):
            self.path(key).unlink(missing_ok=True)

    def _damaged(self, path: Path) -> None:
        print(f"note: '{path}' ({self.kind}) is damaged or of another program; it is made again.", file=sys.stderr, flush=True)

    def _warn(self, error: UserError) -> None:
        """Once a folder, for there may be thousands of entries."""
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


def _digest(key: str, content: bytes) -> bytes:
    """Over the key too, so that an entry under another's name is found out."""
    return hashlib.blake2b(content, digest_size=DIGEST_BYTES, key=key.encode()[:64]).digest()


def _metadata(content: bytes) -> dict[str, str]:
    """What a safetensors file says beside its tensors."""
    length = int.from_bytes(content[:8], "little")
    found: dict[str, str] = json.loads(content[8 : 8 + length]).get("__metadata__", {})
    return found
