"""Pictures: any files and any words, for ``predict``."""

from __future__ import annotations

from pathlib import Path

from torch.utils.data import DataLoader, Dataset

from common.batch import Item
from common.errors import UserError
from common.files import walk
from common.images import SUFFIXES, read_image
from common.values import Count, Natural
from datamodules.base import DataModule
from evaluation.vocabulary import Vocabulary

WRITTEN = ("labels", "overlays", "segments", "exports")  # folders beside a predictions.json


class Pictures(DataModule):
    """A picture or all pictures below a folder, asked with free text or the words of a known vocabulary.

    Args:
        images: a picture or a folder.
        classes: ``"cat; dog, puppy; sky"``, a text file of classes, or the name of a vocabulary.
        batch_size: pictures per step.
        num_workers: loader processes.
        background: what is none of the classes is one of its own, ``background``; for protocols with a rule for it.
    """

    def __init__(
        self, images: str, classes: str, batch_size: Count = 4, num_workers: Natural = 0, background: bool = False
    ) -> None:
        vocabulary = Vocabulary.named(classes)
        super().__init__(vocabulary.with_background() if background else vocabulary, batch_size, num_workers)
        self.images = Path(images)
        self.root = self.images if self.images.is_dir() else self.images.parent
        self.files = find_images(self.images)

    @property
    def items(self) -> Dataset[Item]:
        """The pictures, read as they are asked for."""
        return _Files(self.files, self.root)

    def predict_dataloader(self) -> DataLoader[Item]:
        return self.loader(self.items)


def find_images(path: Path) -> list[Path]:
    """The picture itself, or all pictures below a folder in sorted order, but for what an earlier ``predict`` wrote there.

    Raises:
        UserError: nothing there, or a folder that cannot be read.
    """
    if path.is_file():
        return [path]
    if not path.exists():
        raise UserError(f"'{path}' does not exist. Give a picture or a folder of pictures.")
    files = []
    for folder, below, names in walk(path):
        if "predictions.json" in names:
            below[:] = [name for name in below if name not in WRITTEN]
        files += [Path(folder, name) for name in names if Path(name).suffix.lower() in SUFFIXES]
    files = sorted(file for file in files if file.is_file())
    if not files:
        raise UserError(f"no pictures found in '{path}' (looked for {', '.join(sorted(SUFFIXES))}).")
    return files


class _Files(Dataset[Item]):
    """An unreadable picture becomes an item with its error, so that the others are still done."""

    def __init__(self, files: list[Path], root: Path) -> None:
        self.files, self.root = files, root

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Item:
        path = self.files[index]
        item: Item = {"name": str(path.relative_to(self.root)), "index": index, "error": ""}
        try:
            return {**item, "image": read_image(path)}
        except UserError as error:
            return {**item, "image": None, "error": str(error)}  # type: ignore[typeddict-item]
