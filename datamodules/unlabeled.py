"""Pictures without labels, to train on: folders, lists, archives and tar shards."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any, Literal

from torch import Tensor
from torch.utils.data import Dataset, default_collate

from common.code import code_of
from common.errors import UserError
from common.images import decode_image
from common.randomness import run_seed
from common.records import Contents, joined
from common.values import Count, Natural
from datamodules.base import DataModule, TrainingData
from datamodules.crops import Crop, cut, middle_square
from datamodules.reading.shards import ShardedImages
from datamodules.reading.sources import FolderImages, ImageSource, ListedImages, RemainingImages
from datamodules.sampling import TrainingLoader
from evaluation.vocabulary import Vocabulary

SKIPS = 100  # unreadable pictures in a row that "skip" accepts


class UnlabeledImages(TrainingData):
    """Pictures, and their captions where there are some; no mask is ever opened, and folders of labels are left out.

    The order of an epoch and every random crop depend on (seed, epoch, picture) alone, not on workers or processes.

    Args:
        images: a folder, a list (``.txt``: a file per line, then a tab and the caption), an archive, or tar shards
            (``cc12m/{00000..01242}.tar``).
        leave_out: a list (``.txt``) of pictures that are not trained on, such as those that are tested on: a name per line.
        size: side of the square that is cut out, in pixels.
        crop: ``centre`` (short side to ``size``, then the middle), ``random`` (a quarter to all of the area, mirrored half
            of the time) or ``none`` (whole pictures of any size, in lists).
        captions: batches also hold captions.
        unreadable: ``stop`` at a picture that cannot be read, or ``skip`` to the next and say so.
        classes: a shipped vocabulary or ``"cat; dog"``, for methods that train on class names; default: those of
            ``scored_on``.
        scored_on: a benchmark to validate and test on; without one, ``fit`` does not validate.
        seed: of order and crops; default: the run's (``--seed_everything``).
        train_batch_size: pictures per training step and process.
        num_workers: loader processes.
    """

    unscored = "these pictures have no labels to score on"

    def __init__(
        self,
        images: str,
        size: Count = 224,
        leave_out: str | None = None,
        crop: Crop = "centre",
        captions: bool = False,
        unreadable: Literal["stop", "skip"] = "stop",
        classes: str = "",
        scored_on: DataModule | None = None,
        seed: Natural | None = None,
        train_batch_size: Count = 64,
        num_workers: Natural = 1,
    ) -> None:
        vocabulary = Vocabulary.named(classes) if classes else scored_on.vocabulary if scored_on else None
        super().__init__(vocabulary, scored_on, num_workers=num_workers)
        self.images, self.size, self.crop, self.captions, self.unreadable = images, size, crop, captions, unreadable
        self.leave_out = leave_out
        self.seed, self.train_batch_size = run_seed(seed), train_batch_size

    def training_content(self) -> str:
        return joined([self.source().contents()])

    def source(self) -> ImageSource:
        """The pictures that are trained on."""
        every = image_source(self.images)
        return every if self.leave_out is None else RemainingImages(every, self.leave_out)

    def train_dataloader(self) -> TrainingLoader:
        source = self.source()
        if len(source) < self.train_batch_size:
            held = f"holds {len(source)} pictures, fewer than a batch of {self.train_batch_size}"
            raise UserError(f"'{self.images}' {held}. Set --data.train_batch_size to {len(source)} or less.")
        dataset = UnlabeledPictures(source, self)
        return TrainingLoader(dataset, self.train_batch_size, self.seed, self.num_workers, source.shards, collate_pictures)


class UnlabeledPictures(Dataset[dict[str, Any]]):
    """Items ``image`` (3, size, size) or (3, H, W) uint8, ``name``, ``index`` and, if asked for, ``caption``.

    Indexed by (epoch, index), because crops change from epoch to epoch.
    """

    def __init__(self, source: ImageSource, data: UnlabeledImages) -> None:
        self.source, self.crop, self.size = source, data.crop, data.size
        self.seed, self.captions, self.skips = data.seed, data.captions, data.unreadable == "skip"

    def __len__(self) -> int:
        return len(self.source)

    def name(self, index: int) -> str:
        return self.source.name(index)

    def square(self, index: int) -> Tensor:
        """(3, S, S) uint8, the middle square at the resolution of the file: what the centre crop shows."""
        return middle_square(self._readable(index)[0])

    def contents(self) -> Contents:
        return self.source.contents()

    def rendering(self) -> dict[str, Any]:
        if self.crop == "random":
            raise UserError(
                "images with --data.crop random change from epoch to epoch; nothing can be kept. Set --data.crop centre, "
                "or keep nothing: --model.cache null or --model.masks null."
            )
        if self.crop == "none":
            raise UserError("images with --data.crop none are of several sizes; nothing can be kept. Set --data.crop centre.")
        return {"crop": self.crop, "size": self.size, "code": code_of(cut, decode_image)}

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        epoch, index = key
        picture, index = self._readable(index)
        image = cut(picture, self.crop, self.size, [self.seed, epoch, index])
        item = {"image": image, "name": self.source.name(index), "index": index}
        return item | {"caption": self.source.caption(index)} if self.captions else item

    def _readable(self, index: int) -> tuple[Tensor, int]:
        """The picture, or with ``skip`` the first readable one after it."""
        for attempt in range(SKIPS):
            try:
                return decode_image(self.source.read(index), self.source.name(index)), index
            except UserError as error:
                if not self.skips:
                    raise UserError(f"{error} Leave such pictures out with --data.unreadable skip.") from error
                print(f"skipped: {error}", file=sys.stderr, flush=True)
                index = (index + 1) % len(self)
                last = f"{attempt + 1} pictures in a row cannot be read, the last: {error}"
        raise UserError(last)


def collate_pictures(items: list[dict[str, Any]]) -> dict[str, Any]:
    """Pictures of one size as one tensor (B, 3, S, S), others as a list."""
    if len({item["image"].shape for item in items}) == 1:
        return default_collate(items)
    return {key: [item[key] for item in items] for key in items[0]}


def image_source(images: str) -> ImageSource:
    """A folder (of pictures, or of tar shards), a ``.txt`` or ``.tsv`` list, an archive, or a pattern of shards.

    Args:
        images: such as ``/data/pictures``, ``list.txt``, ``val2017.zip``, ``cc12m/*.tar`` or ``cc12m/{00000..01242}.tar``.

    Raises:
        UserError: nothing there.
    """
    path = Path(images)
    if path.is_dir():
        shards = sorted(str(shard) for shard in path.glob("*.tar"))
        return ShardedImages(shards) if shards else FolderImages(images)
    if path.suffix in (".txt", ".tsv"):
        return ListedImages(images)
    if path.is_file():
        return ShardedImages([images])
    named = [Path(name) for name in expand_braces(images)]
    found = {name: sorted(str(file) for file in name.parent.glob(name.name)) for name in named}
    if absent := [name for name, files in found.items() if not files]:
        raise UserError(f"'{absent[0]}' does not exist. Give a folder, a list (.txt), an archive or a pattern of tar shards.")
    shards = [file for files in found.values() for file in files]
    return ShardedImages(shards)


def expand_braces(pattern: str) -> list[str]:
    """``"a{00..12}.tar"`` -> thirteen names; other patterns as they are."""
    found = re.fullmatch(r"(.*)\{(\d+)\.\.(\d+)\}(.*)", pattern)
    if not found:
        return [pattern]
    before, first, last, after = found.groups()
    return [f"{before}{number:0{len(first)}d}{after}" for number in range(int(first), int(last) + 1)]
