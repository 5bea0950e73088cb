"""Mined masks as they are kept: an index PNG for every picture, which also says which words it tells something about."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import torch
from PIL import Image, PngImagePlugin

from common.distributed import gathered, rank_and_world
from common.kept import Kept, key_of
from common.records import joined
from methods.freeseg.mining import IGNORED, PartialMask
from methods.per_image import PerImage

ACTIVE = "active words"  # a text in the PNG


def encode(mask: PartialMask) -> bytes:
    """A PNG whose values are words."""
    note = PngImagePlugin.PngInfo()
    note.add_text(ACTIVE, "".join("1" if word else "0" for word in mask.active.tolist()))
    file = io.BytesIO()
    Image.fromarray(mask.labels.cpu().numpy()).save(file, format="PNG", pnginfo=note)
    return file.getvalue()


def decode(content: bytes) -> PartialMask:
    """What :func:`encode` made a PNG of."""
    with Image.open(io.BytesIO(content)) as image:
        active = [digit == "1" for digit in image.info[ACTIVE]]
        return PartialMask(torch.from_numpy(np.array(image)), torch.tensor(active))


@dataclass(frozen=True)
class MaskStatistics:
    """What was mined from a set of pictures.

    Attributes:
        labelled_share: of the pixels, mean over pictures.
        empty: pictures without any label.
        pixels: labelled pixels by word.
    """

    labelled_share: float
    empty: int
    pixels: dict[str, int]

    @property
    def never_found(self) -> list[str]:
        return [word for word, count in self.pixels.items() if not count]


def statistics_of(masks: PerImage, words: Sequence[str]) -> MaskStatistics:
    """Counted once, shared among the processes, and kept."""
    store = Kept("mask-statistics")
    key = key_of(masks=masks.key, pictures=joined([masks.records.pictures]))
    entry = store.read(key)
    if entry is not None and set(entry.note) == {field.name for field in fields(MaskStatistics)}:
        return MaskStatistics(**entry.note)
    rank, world = rank_and_world()
    own = range(rank, len(masks.records.pictures), world)
    counts = [np.bincount(_labels(masks, index), minlength=256) for index in own]
    found = _summed(gathered(counts), words)
    if rank == 0:
        store.write(key, {}, asdict(found))
    return found


def _labels(masks: PerImage, index: int) -> Any:
    content = masks.records[index]
    return np.full(1, IGNORED) if content is None else decode(content).labels.numpy().ravel()


def _summed(counts: list[np.ndarray], words: Sequence[str]) -> MaskStatistics:
    shares = [1 - int(count[IGNORED]) / int(count.sum()) for count in counts]
    total = np.sum(counts, axis=0)
    pixels = {word: int(total[i]) for i, word in enumerate(words)}
    return MaskStatistics(float(np.mean(shares)), sum(share == 0 for share in shares), pixels)
