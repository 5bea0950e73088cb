"""What a method makes of every training image once, and keeps: views' embeddings, mined masks."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from rich.progress import Progress
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from common.distributed import gathered, rank_and_world
from common.errors import UserError
from common.kept import Kept, key_of
from common.records import Contents, Records, shards_of

READ_AT_ONCE = 64


Images = Tensor | list[Tensor]  # (B, 3, S, S) uint8, or (3, S, S) of several sizes


class StillImages(Protocol):
    """A data set of (epoch, index) whose images are the same in every epoch."""

    def __len__(self) -> int: ...
    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]: ...

    def square(self, index: int) -> Tensor:
        """(3, S, S) uint8, what an image shows at the resolution of its file."""

    def contents(self) -> Contents:
        """(N, 16) digests of what the images' files hold."""

    def rendering(self) -> dict[str, Any]:
        """How files become images, plainly: crop, size, code.

        Raises:
            UserError: they change from epoch to epoch, or are of several sizes.
        """


class Keepable(Protocol):
    """What :class:`PerImage` needs of a data set."""

    def __len__(self) -> int: ...
    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]: ...
    def contents(self) -> Contents: ...
    def rendering(self) -> dict[str, Any]: ...


class Squares:
    """The images of a data set at the resolution of their files."""

    def __init__(self, images: StillImages) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        return {"image": self.images.square(key[1])}

    def contents(self) -> Contents:
        return self.images.contents()

    def rendering(self) -> dict[str, Any]:
        """Of the square alone: it does not depend on the size that the data set is read at."""
        return {"square": True, "code": self.images.rendering()["code"]}


class PerImage:
    """A content of every image, found by what the image holds.

    Args:
        kind: what is kept, for people: names the folder in the cache, and the progress bar.
        folder: ``auto`` for the cache, or the user's own.
        settings: all that a content depends on besides the image's file.
        images: what it is of; :class:`StillImages`, or :class:`Squares` of them.
        option: of the command line, that names the folder.
    """

    def __init__(self, kind: str, folder: str, settings: dict[str, Any], images: Keepable, option: str) -> None:
        self.option = option
        store = Kept(kind, folder, required=folder != "auto")
        self.images, self.key = images, key_of(**settings, rendering=images.rendering())
        self.records = Records(store, self.key, images.contents())

    @property
    def store(self) -> Kept:
        return self.records.store

    def fill(self, make: Callable[[Images], list[bytes]], workers: int, size: int = 0) -> bool:
        """Makes what is missing, shared among the processes; returns whether it could be kept.

        Args:
            make: images -> a content each.
            workers: loader processes.
            size: bytes of a content, where all have the same, so that a disk that is too small is known beforehand.

        Raises:
            UserError: they do not fit on the disk.
        """
        missing, kept = self.records.missing(), True
        if not all(gathered([self.store.writable()])):  # and every process has looked before the first writes
            return False
        self._check_space(len(missing) * size)
        rank, world = rank_and_world()
        shards = list(shards_of(missing))[rank::world]
        with Progress(disable=rank != 0 or not len(missing)) as progress:
            task = progress.add_task(self.store.kind, total=sum(len(shard) for shard in shards))
            for shard in shards:
                made: list[bytes] = []
                for images in image_batches(self.images, shard.tolist(), workers):
                    made += make(images)
                    progress.advance(task, len(images))
                kept = self.records.write(shard, made) and kept
        kept = all(gathered([kept]))
        self.records.refresh()
        return kept

    def read(self, indices: Sequence[int], make: Callable[[list[int]], list[bytes]]) -> list[bytes]:
        """The contents of some images; ``make`` makes those again, by their position, that are damaged or gone."""
        found = [self.records[index] for index in indices]
        missing = [i for i, content in enumerate(found) if content is None]
        for i, content in zip(missing, make(missing) if missing else [], strict=True):
            found[i] = content
        return [content for content in found if content is not None]

    def _check_space(self, needed: int) -> None:
        free = shutil.disk_usage(self.store.folder).free
        if needed > free:
            raise UserError(
                f"the {self.store.kind} need {needed / 1e9:.1f} GB, '{self.store.folder}' has {free / 1e9:.1f} GB left. Give a "
                f"{self.option} folder on a larger disk, or {self.option} null to make them anew at every step."
            )


class _Chosen(Dataset[Tensor]):
    def __init__(self, images: Any, chosen: Sequence[int]) -> None:
        self.images, self.chosen = images, chosen

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, i: int) -> Tensor:
        image: Tensor = self.images[0, int(self.chosen[i])]["image"]
        return image


def image_batches(images: Any, chosen: Sequence[int], workers: int) -> Iterator[Images]:
    """Some images in order, in batches."""
    yield from DataLoader(_Chosen(images, chosen), READ_AT_ONCE, num_workers=workers, collate_fn=_together)


def _together(images: list[Tensor]) -> Images:
    return torch.stack(images) if len({image.shape for image in images}) == 1 else images


def of_one_size(images: Images) -> Tensor:
    """(B, 3, S, S); a batch of images of several sizes is a list.

    Raises:
        UserError: they are of several sizes.
    """
    if isinstance(images, list):
        raise UserError("the training pictures are of several sizes, and here all must have one. Set --data.crop centre.")
    return images


def array_bytes(arrays: Tensor) -> list[bytes]:
    """One content per row of float32 (B, ...), in half precision."""
    return [row.tobytes() for row in arrays.half().cpu().numpy()]


def bytes_array(contents: list[bytes], shape: tuple[int, ...]) -> np.ndarray:
    """(B, *shape) float16 of what :func:`array_bytes` made."""
    return np.stack([np.frombuffer(content, np.float16).reshape(shape) for content in contents])
