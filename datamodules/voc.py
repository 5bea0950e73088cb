"""PASCAL VOC 2012 segmentation, read from the original VOCdevkit."""

from __future__ import annotations

from pathlib import Path

import torch
from torch.utils.data import Dataset

from datamodules.base import DataModule, Item
from datamodules.images import read_mask, read_picture
from datamodules.vocabulary import Vocabulary
from zerolabel_common import UserError


class VOC(DataModule):
    """VOC21 (with background) or VOC20, on the official val list.

    Args:
        root: folder that holds ``VOCdevkit/VOC2012`` (or is ``VOC2012`` itself).
        vocabulary: ``voc21`` or ``voc20``.
        split: list in ``ImageSets/Segmentation``.
        batch_size: pictures per step.
        num_workers: loader processes.
        limit: use only the first pictures; 0 for all.
    """

    label_spaces = ("voc21", "voc20")

    def __init__(
        self,
        root: str,
        vocabulary: str = "voc21",
        split: str = "val",
        batch_size: int = 4,
        num_workers: int = 1,
        limit: int = 0,
    ) -> None:
        super().__init__(self.label_space(vocabulary), batch_size, num_workers, limit)
        self.root, self.split = Path(root), split

    def benchmark(self, split: str) -> Dataset[Item]:
        return _VOC(self.root, self.split, self.vocabulary)


class _VOC(Dataset[Item]):
    def __init__(self, root: Path, split: str, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary
        folders = [root / "VOCdevkit" / "VOC2012", root / "VOC2012", root]
        self.folder = next((f for f in folders if (f / "ImageSets" / "Segmentation").is_dir()), None)
        if self.folder is None:
            raise UserError(f"no VOCdevkit/VOC2012 in '{root}'. Set --data.root to where VOCtrainval_11-May-2012 lies.")
        listing = self.folder / "ImageSets" / "Segmentation" / f"{split}.txt"
        if not listing.is_file():
            known = ", ".join(sorted(p.stem for p in listing.parent.glob("*.txt")))
            raise UserError(f"no split '{split}' in '{listing.parent}'. There: {known}.")
        self.ids = listing.read_text().split()

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> Item:
        assert self.folder is not None
        name = self.ids[index]
        image = read_picture(self.folder / "JPEGImages" / f"{name}.jpg", upright=False)
        path = self.folder / "SegmentationClass" / f"{name}.png"
        mask = read_mask(path)
        if mask.shape != tuple(image.shape[1:]):
            raise UserError(f"mask '{path}' is {mask.shape} but its picture is {tuple(image.shape[1:])}.")
        try:
            labels = torch.from_numpy(self.vocabulary.to_train_ids(mask))
        except UserError as error:
            raise UserError(f"mask '{path}': {error}") from error
        return {"image": image, "mask": labels, "name": name, "index": index}
