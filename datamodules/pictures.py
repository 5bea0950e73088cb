"""Pictures: any files and any words, for ``predict``; a film's frames are pictures, too, and so are a picture's tiles."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from torch.utils.data import DataLoader, Dataset

from common.batch import Item
from common.distributed import rank_and_world
from common.errors import UserError
from common.files import walk
from common.images import SUFFIXES, read_image
from common.values import Count, Natural, Within
from datamodules.base import DataModule, collate
from datamodules.reading.films import Film, Frames, is_film
from datamodules.reading.tiles import Tiles, Tiling
from evaluation.vocabulary import Vocabulary

Tile = Annotated[int, Within(0, 10_000)]
WRITTEN = ("labels", "overlays", "segments", "exports")  # folders beside a predictions.json


class Pictures(DataModule):
    """A picture, all pictures below a folder or a film, asked with free text or the words of a known vocabulary.

    Attributes:
        stream: frames or tiles, which only come one after the other; None of whole pictures.

    Args:
        images: a picture, a folder (its films are left out) or a film.
        classes: ``"cat; dog, puppy; sky"``, a text file of classes, or the name of a vocabulary.
        batch_size: pictures per step.
        num_workers: loader processes.
        background: what is none of the classes is one of its own, ``background``; for protocols with a rule for it.
        tile: side of the tiles that pictures are cut into, each segmented as if it were a picture; 0 for whole pictures.
        overlap: pixels that neighbouring tiles share; a quarter of their side if not given.
    """

    def __init__(
        self,
        images: str,
        classes: str,
        batch_size: Count = 4,
        num_workers: Natural = 0,
        background: bool = False,
        tile: Tile = 0,
        overlap: Natural | None = None,
    ) -> None:
        vocabulary = Vocabulary.named(classes)
        super().__init__(vocabulary.with_background() if background else vocabulary, batch_size, num_workers)
        self.images = Path(images)
        self.root = self.images if self.images.is_dir() else self.images.parent
        self.files = find_images(self.images)
        self.stream: Frames | Tiles | None = None
        if self.images.is_file() and is_film(self.images):
            self.stream, self.predicts = Frames(Film.opened(self.images)), "frames"
        if tile or overlap:
            if not tile:
                raise UserError(f"the overlap of {overlap} is of tiles: set --tile, too.")
            if self.stream:
                raise UserError(f"pictures are cut into tiles, and '{self.images}' is a film. Leave --tile away.")
            tiling = Tiling(tile, tile // 4 if overlap is None else overlap)
            self.stream, self.predicts = Tiles(self.files, self.root, tiling), "tiles"

    @property
    def items(self) -> Dataset[Item]:
        """The whole pictures, read as they are asked for.

        Raises:
            UserError: a film.
        """
        if self.predicts == "frames":
            raise UserError(f"'{self.images}' is a film, and pictures are needed. Give a folder of its frames.")
        return _Files(self.files, self.root)

    @property
    def expected_batches(self) -> int:
        """Of a stream, for a progress bar: a film's length is only promised before its end; 0 where it is not even that."""
        return -(-self.stream.expected // self.batch_size) if self.stream else 0

    def predict_dataloader(self) -> DataLoader[Item]:
        if self.stream is None:
            return self.loader(self.items)
        if rank_and_world()[1] > 1:
            raise UserError(f"{self.predicts} come one after the other, through one process. Set --trainer.devices 1.")
        workers = min(self.num_workers, 1)  # several would each read everything
        return DataLoader(self.stream, self.batch_size, num_workers=workers, collate_fn=collate)


def find_images(path: Path) -> list[Path]:
    """The picture itself, or all pictures below a folder in sorted order, but for what an earlier ``predict`` wrote there.

    Raises:
        UserError: nothing there, or a folder that cannot be read.
    """
    if path.is_file():
        return [path]
    if not path.exists():
        raise UserError(f"'{path}' does not exist. Give a picture, a folder of pictures or a film.")
    files, films = [], []
    for folder, below, names in walk(path):
        if "predictions.json" in names:
            below[:] = [name for name in below if name not in WRITTEN]
        files += [Path(folder, name) for name in names if Path(name).suffix.lower() in SUFFIXES]
        films += [Path(folder, name) for name in names if is_film(Path(name))]
    files = sorted(file for file in files if file.is_file())
    hint = f" A film is given by itself: --images '{min(films)}'." if films else ""
    if not files:
        raise UserError(f"no pictures found in '{path}' (looked for {', '.join(sorted(SUFFIXES))}).{hint}")
    if hint:
        print(f"note: films in '{path}' are left out.{hint}", flush=True)
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
