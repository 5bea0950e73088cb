"""Many small contents, one for each picture of a data set, kept in the shards of a store (:mod:`common.kept`).

A shard is an entry of :data:`SHARD` records, read through a memory map. Each record is checked by a digest of its own when it
is read, so that tens of gigabytes need no pass at the start. A record is found by what its picture *holds*: pictures may be
renamed, added or removed, and a picture that was replaced under its name is another picture.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open

from common.kept import Kept

SHARD = 1024
DIGEST = 16  # bytes of a picture's and of a record's digest

Contents = NDArray[np.uint8]  # (N, DIGEST) digests of pictures


class Shard(NamedTuple):
    """One entry: digests of ``pictures`` (n, 16), of the ``records`` (n, 16), ``ends`` (n,) of the records in ``data``."""

    key: str
    pictures: NDArray[np.uint8]
    digests: NDArray[np.uint8]
    ends: NDArray[np.int64]
    data: NDArray[np.uint8]

    def read(self, row: int) -> bytes | None:
        """A record, or None if it is not as it was written."""
        start = int(self.ends[row - 1]) if row else 0
        content = self.data[start : int(self.ends[row])].tobytes()
        return content if digest_of(content, self.pictures[row]) == self.digests[row].tobytes() else None


class Records:
    """The records of one data set under one group of settings.

    Args:
        store: where they are kept.
        settings: key of all that they depend on besides the picture.
        pictures: (N, 16) what the pictures hold.
    """

    def __init__(self, store: Kept, settings: str, pictures: Contents) -> None:
        self.store, self.settings, self.pictures = store, settings, pictures
        self.shards: list[Shard] = []
        self.place = np.full((len(pictures), 2), -1, np.int64)  # shard and row of every picture
        self.refresh()

    def refresh(self) -> None:
        """Looks for what other processes have written."""
        known = {shard.key for shard in self.shards}
        for key in self.store.keys(f"{self.settings}-"):
            if key not in known and (shard := _open(self.store, key)):
                self.shards.append(shard)
        self.place[:] = -1
        if self.shards and len(self.pictures):
            known_pictures = np.concatenate([shard.pictures for shard in self.shards])
            rows = np.concatenate([np.arange(len(shard.ends)) for shard in self.shards])
            numbers = np.repeat(np.arange(len(self.shards)), [len(shard.ends) for shard in self.shards])
            at = rows_of(known_pictures, self.pictures)
            self.place[at >= 0] = np.stack([numbers, rows], 1)[at[at >= 0]]

    def missing(self) -> NDArray[np.int64]:
        """Indices of the pictures that have no record."""
        return np.flatnonzero(self.place[:, 0] < 0)

    def __getitem__(self, index: int) -> bytes | None:
        """The record of a picture; None where there is none, or a damaged one, whose shard is then made again next time."""
        number, row = self.place[index]
        if number < 0:
            return None
        shard = self.shards[number]
        content = shard.read(int(row))
        if content is None:
            self.store.say_damaged(shard.key)
            self.store.remove(shard.key)
            self.place[index] = -1
        return content

    def write(self, indices: NDArray[np.int64], records: list[bytes]) -> bool:
        """Keeps one shard; returns whether it could be written."""
        pictures = self.pictures[indices]
        name = hashlib.blake2b(pictures.tobytes(), digest_size=8).hexdigest()
        digests = b"".join(digest_of(content, picture) for content, picture in zip(records, pictures, strict=True))
        tensors = {
            "pictures": torch.from_numpy(pictures),
            "digests": torch.frombuffer(bytearray(digests), dtype=torch.uint8).view(-1, DIGEST),
            "ends": torch.tensor([len(content) for content in records]).cumsum(0),
            "data": torch.frombuffer(bytearray(b"".join(records)), dtype=torch.uint8),
        }
        return self.store.write(f"{self.settings}-{name}", tensors)


def shards_of(indices: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """Indices in groups of :data:`SHARD`."""
    for start in range(0, len(indices), SHARD):
        yield indices[start : start + SHARD]


def digest_of(content: bytes, picture: NDArray[np.uint8]) -> bytes:
    """Over a record and the picture it is of."""
    return hashlib.blake2b(content, digest_size=DIGEST, key=picture.tobytes()).digest()


def content_digest(data: bytes) -> bytes:
    """Of a file's content."""
    return hashlib.blake2b(data, digest_size=DIGEST).digest()


def content_of(data: bytes) -> Contents:
    """(1, 16) of bytes that are read anyway."""
    return np.frombuffer(content_digest(data), np.uint8)[None]


def joined(several: Sequence[Contents]) -> str:
    """One digest for the contents of a whole data set, in their order."""
    return hashlib.blake2b(b"".join(part.tobytes() for part in several), digest_size=DIGEST).hexdigest()


def numbered(prefix: str, count: int) -> Contents:
    """(count, 16) for pictures that follow from a number alone: drawn, not stored."""
    joined_digests = b"".join(content_digest(f"{prefix} {i}".encode()) for i in range(count))
    return np.frombuffer(joined_digests, np.uint8).reshape(-1, DIGEST)


def rows_of(known: Contents, wanted: Contents) -> NDArray[np.int64]:
    """(N,) the row of ``known`` (M, 16) that equals each of ``wanted`` (N, 16); -1 where none does."""
    if not len(known) or not len(wanted):
        return np.full(len(wanted), -1, np.int64)
    order = np.argsort(_start(known))
    at = np.searchsorted(_start(known), _start(wanted), sorter=order)
    found = order[np.minimum(at, len(order) - 1)]
    return np.where((known[found] == wanted).all(1), found, -1)


def _start(pictures: Contents) -> NDArray[np.uint64]:
    """(N,) the first half of each digest, as a number to sort by."""
    return np.ascontiguousarray(pictures[:, :8]).view(np.uint64)[:, 0]


def _open(store: Kept, key: str) -> Shard | None:
    """A shard, mapped and not read; None if its frame is broken. What its records hold is checked one by one."""
    try:
        with safe_open(store.path(key), "pt") as file:
            pictures, digests, ends, data = (file.get_tensor(name).numpy() for name in ("pictures", "digests", "ends", "data"))
        framed = (
            pictures.shape == digests.shape == (len(ends), DIGEST) and pictures.dtype == digests.dtype == data.dtype == np.uint8
        )
        if framed and ends.dtype == np.int64 and data.ndim == ends.ndim == 1:
            return Shard(key, pictures, digests, ends, data)
    except FileNotFoundError:
        return None
    except Exception:  # whatever is wrong with the frame, the remedy is the same
        store.say_damaged(key)
        return None
    store.say_damaged(key)
    return None
