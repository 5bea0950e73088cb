"""The teacher's embeddings of all views of all pictures, computed once and kept on disk.

A folder holds one teacher's views: ``settings.json`` and shards of ``SHARD`` pictures, each a float16 array (N, n, C) that is
read through a memory map, and beside it the 64-bit digests of its pictures' names with the array's checksum. The names are
written last and each file atomically, so what a killed run leaves is complete or absent; pictures are found by name, so that
some may be removed or added.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol
from zipfile import BadZipFile

import numpy as np
import torch
from rich.progress import Progress
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from common.distributed import rank_and_world
from common.errors import UserError
from common.files import atomic_path

SHARD = 1024
READ_AT_ONCE = 64


class NamedImages(Protocol):
    """A dataset of (epoch, index) whose pictures have names and do not change from epoch to epoch."""

    def __len__(self) -> int: ...
    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]: ...
    def name(self, index: int) -> str: ...


def refuse_changing(pictures: Any, what: str, option: str) -> None:
    """Raises UserError for pictures of which nothing can be kept: random crops, or no crops and so many sizes."""
    crop = getattr(pictures, "crop", "centre")
    if crop == "random":
        raise UserError(f"{what} of random crops cannot be kept. Set --data.crop centre, or {option} null.")
    if crop == "none":
        raise UserError(f"{what} are made of pictures of one size. Set --data.crop centre.")


class ViewCache:
    """See the module.

    Args:
        folder: of one teacher's views.
        settings: what the views depend on besides the picture: teacher, grids, crop.
        shape: (n, C) of a picture's views.

    Raises:
        UserError: the folder holds views of other settings, or a damaged shard.
    """

    def __init__(self, folder: Path, settings: dict[str, Any], shape: tuple[int, int]) -> None:
        self.folder, self.shape = folder, shape
        file = folder / "settings.json"
        if file.exists():
            found = json.loads(file.read_text(encoding="utf-8"))
            if differs := [key for key in settings if found.get(key) != settings[key]]:
                key = differs[0]
                raise UserError(
                    f"the views in '{folder}' were made with {key} {found.get(key)}, not {settings[key]}. Give another "
                    "--model.cache folder, or delete this one."
                )
        else:
            with atomic_path(file) as path:
                path.write_text(json.dumps(settings, indent=1), encoding="utf-8")
        self.views: list[np.ndarray] = []
        self.rows = np.zeros(0, np.int64)

    def fill(self, pictures: NamedImages, embed: Callable[[Tensor], Tensor], workers: int, barrier: Callable[[], Any]) -> None:
        """Computes what is missing, shared among the processes, and finds every picture's row."""
        names = digests(pictures)
        missing = np.flatnonzero(~np.isin(names, self._known()[0]))
        barrier()  # every process has looked before the first writes
        rank, world = rank_and_world()
        if len(missing):
            self._check_space(len(missing), rank)
            shards = [missing[start : start + SHARD] for start in range(0, len(missing), SHARD)]
            self._compute(pictures, names, shards[rank::world], embed, workers, shown=rank == 0)
        barrier()
        self._check_sums(rank, world)
        known, self.views = self._known()
        order = np.argsort(known)
        self.rows = order[np.searchsorted(known, names, sorter=order)]
        self.starts = np.cumsum([0, *(len(view) for view in self.views)])

    def __getitem__(self, index: Tensor) -> Tensor:
        """Views (B, n, C) float32 of pictures by their index in the dataset."""
        found = []
        for row in self.rows[index.cpu().numpy()]:
            shard = int(np.searchsorted(self.starts, row, "right")) - 1
            found.append(self.views[shard][row - self.starts[shard]])
        return torch.from_numpy(np.stack(found)).float()

    def _known(self) -> tuple[np.ndarray, list[np.ndarray]]:
        """Digests of all cached pictures, and the shards that hold them in this order."""
        known, views = [np.zeros(0, np.uint64)], []
        for file in self._name_files():
            shard = shard_of(file)
            try:
                names, view = np.load(file)["names"], np.load(shard, mmap_mode="r")
            except (OSError, ValueError, EOFError, BadZipFile) as error:
                raise damaged(file, str(error)) from error
            if view.shape != (len(names), *self.shape):
                raise UserError(f"cached views '{shard}' are {view.shape}, not {(len(names), *self.shape)}. Delete '{file}'.")
            known.append(names)
            views.append(view)
        return np.concatenate(known), views

    def _check_sums(self, rank: int, world: int) -> None:
        """Reads all shards once, shared among the processes: a flipped bit is found before it is learnt from."""
        for file in self._name_files()[rank::world]:
            if zlib.crc32(shard_of(file).read_bytes()) != np.load(file)["crc32"]:
                raise damaged(file, "its checksum is another one")

    def _name_files(self) -> list[Path]:
        return sorted(self.folder.glob("*.names.npz"))

    def _check_space(self, pictures: int, rank: int) -> None:
        needed = pictures * self.shape[0] * self.shape[1] * 2
        free = shutil.disk_usage(self.folder).free
        if needed > free:
            raise UserError(
                f"the views of {pictures} pictures need {needed / 1e9:.1f} GB, '{self.folder}' has {free / 1e9:.1f} GB left. "
                "Give a --model.cache folder on a larger disk, or --model.cache null to embed the views at every step."
            )
        if rank == 0:
            print(f"views of {pictures} pictures: {needed / 1e6:.0f} MB in '{self.folder}'", flush=True)

    def _compute(
        self,
        pictures: NamedImages,
        names: np.ndarray,
        shards: list[np.ndarray],
        embed: Callable[[Tensor], Tensor],
        workers: int,
        shown: bool,
    ) -> None:
        with Progress(disable=not shown) as progress:
            task = progress.add_task("views", total=sum(len(shard) for shard in shards))
            for shard in shards:
                views = np.empty((len(shard), *self.shape), np.float16)
                at = 0
                for images in image_batches(pictures, shard, workers):
                    views[at : at + len(images)] = embed(images).half().cpu().numpy()
                    at += len(images)
                    progress.advance(task, len(images))
                file = self.folder / f"{hashlib.sha256(names[shard].tobytes()).hexdigest()[:16]}.names.npz"
                with atomic_path(shard_of(file)) as path:
                    np.save(path, views)
                    crc32 = zlib.crc32(path.read_bytes())
                with atomic_path(file) as path:
                    np.savez(path, names=names[shard], crc32=crc32)


def shard_of(file: Path) -> Path:
    """The views whose names a file holds."""
    return file.with_name(file.name.replace(".names.npz", ".npy"))


def damaged(file: Path, why: str) -> UserError:
    return UserError(f"cached views '{shard_of(file)}' are damaged ({why}). Delete '{file}'; they are then made again.")


def digests(pictures: NamedImages) -> np.ndarray:
    """64-bit digests (N,) of the pictures' names."""
    joined = b"".join(hashlib.blake2b(pictures.name(i).encode(), digest_size=8).digest() for i in range(len(pictures)))
    return np.frombuffer(joined, np.uint64)


class _Chosen(Dataset[Tensor]):
    def __init__(self, pictures: NamedImages, chosen: Sequence[int]) -> None:
        self.pictures, self.chosen = pictures, chosen

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, i: int) -> Tensor:
        image: Tensor = self.pictures[0, int(self.chosen[i])]["image"]
        return image


def image_batches(pictures: NamedImages, chosen: np.ndarray, workers: int) -> Iterator[Tensor]:
    """Some pictures in order, as batches (B, 3, H, W) uint8 of one size."""
    yield from DataLoader(_Chosen(pictures, chosen.tolist()), READ_AT_ONCE, num_workers=workers)
