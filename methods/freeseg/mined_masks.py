"""Mined masks as they are kept: an index PNG for every picture, which also says which classes it tells something about."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

from common.batch import IGNORED
from common.distributed import gathered, rank_and_world
from common.kept import Kept, key_of
from common.records import joined
from methods.freeseg.mining import PartialMask
from methods.per_image import PerImage

ACTIVE = "active classes"  # a text in the PNG


def encode(mask: PartialMask) -> bytes:
    """A PNG whose values are train ids, 255 where nothing is known."""
    note = PngImagePlugin.PngInfo()
    note.add_text(ACTIVE, " ".join(map(str, mask.active.nonzero()[:, 0].tolist())))
    file = io.BytesIO()
    Image.fromarray(mask.labels.cpu().numpy()).save(file, format="PNG", pnginfo=note)
    return file.getvalue()


def decode(content: bytes) -> PartialMask:
    """What :func:`encode` made a PNG of."""
    with Image.open(io.BytesIO(content)) as image:
        active = torch.zeros(IGNORED + 1, dtype=torch.bool)
        active[[int(number) for number in image.info[ACTIVE].split()]] = True
        return PartialMask(torch.from_numpy(np.array(image)), active)


@dataclass(frozen=True)
class MaskStatistics:
    """What was mined from a set of pictures.

    Attributes:
        labelled_share: of the pixels, mean over pictures.
        empty: pictures without any label.
        pixels: labelled pixels by class.
    """

    labelled_share: float
    empty: int
    pixels: dict[str, int]

    @property
    def never_found(self) -> list[str]:
        return [name for name, count in self.pixels.items() if not count]


def statistics_of(masks: PerImage, names: Mapping[int, str]) -> MaskStatistics:
    """Of the classes with these train ids; counted once, shared among the processes, and kept if every mask is there."""
    store = Kept("mask-statistics")
    key = key_of(masks=masks.key, pictures=joined([masks.records.pictures]), names=[*names.items()])
    entry = store.read_by_all(key)
    if entry is not None and set(entry.note) == {field.name for field in fields(MaskStatistics)}:
        return MaskStatistics(**entry.note)
    rank, world = rank_and_world()
    shares, total = [], np.zeros(IGNORED + 1, np.int64)
    for index in range(rank, len(masks.records.pictures), world):
        if (count := _count(masks, index)) is not None:
            shares.append(1 - int(count[IGNORED]) / int(count.sum()))
            total += count
    shares, total = gathered(shares), np.sum(gathered([total]), axis=0)
    pixels = {name: int(total[train_id]) for train_id, name in names.items()}
    found = MaskStatistics(float(np.mean(shares or [0])), sum(share == 0 for share in shares), pixels)
    if rank == 0 and len(shares) == len(masks.records.pictures):
        store.write(key, {}, asdict(found))
    return found


def _count(masks: PerImage, index: int) -> NDArray[np.int64] | None:
    """Pixels by label (256,); None of a mask that is damaged or could not be kept."""
    content = masks.records[index]
    return None if content is None else np.bincount(decode(content).labels.numpy().ravel(), minlength=IGNORED + 1)
