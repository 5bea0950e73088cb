"""The datamodules' base: pictures travel raw, in lists, and only benchmark batches carry masks."""

from __future__ import annotations

from abc import ABC, ABCMeta, abstractmethod
from typing import Any, ClassVar, Literal

import lightning
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from common.batch import Batch, Item, to_unit
from common.errors import UserError, known
from common.values import Count, Natural, by_name, check_values
from datamodules.sampling import ExactSampler
from evaluation.vocabulary import Vocabulary


def collate(items: list[Item]) -> Batch:
    batch: Batch = {}
    for key in items[0]:
        batch[key] = [item[key] for item in items]  # type: ignore[literal-required]
    return batch


class Benchmark(Dataset[Item]):
    """Labelled pictures in a fixed order."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def content(self) -> str:
        """A digest of all files that the pictures and masks are read from; "" where they follow from options and code."""


class Checked(ABCMeta):
    """Of classes whose values are checked before any of them is used; see :mod:`common.values`."""

    def __call__(cls, *arguments: Any, **options: Any) -> Any:
        check_values(cls, DataModule, by_name(cls, arguments, options))
        return super().__call__(*arguments, **options)


class DataModule(lightning.LightningDataModule, metaclass=Checked):
    """A vocabulary and pictures: labelled ones to score a method on, others to train on or to predict.

    Args:
        vocabulary: the label space.
        batch_size: pictures per step; a method batches their windows by itself.
        num_workers: loader processes.
        limit: use only the first pictures of a split; 0 for all.
        leave_out_classes: ``"cat; dog"``, which are not asked for; where they are seen in a benchmark, the right answer is none
            of the words.
    """

    label_spaces: tuple[str, ...] = ()
    predicts: Literal["pictures", "frames", "tiles"] = "pictures"  # what an item is in predict
    train_batch_size: int = 0  # per process; 0 where there is nothing to train on

    def __init__(
        self,
        vocabulary: Vocabulary,
        batch_size: Count = 4,
        num_workers: Natural = 1,
        limit: Natural = 0,
        leave_out_classes: str = "",
    ) -> None:
        super().__init__()
        left_out = [name.strip() for name in leave_out_classes.split(";") if name.strip()]
        self.vocabulary = vocabulary.without(left_out) if left_out else vocabulary
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.limit = limit

    @classmethod
    def label_space(cls, name: str) -> Vocabulary:
        """Loads one of the label spaces that the data are labelled in.

        Raises:
            UserError: another one.
        """
        return Vocabulary.load(known(f"label space of {cls.__name__}", name, cls.label_spaces))

    def benchmark(self, split: str) -> Benchmark:
        """The labelled pictures of ``"val"`` or ``"test"``, in a fixed order."""
        raise NotImplementedError(f"{type(self).__name__} has no benchmark pictures; it is for training or prediction.")

    def training_content(self) -> str:
        """A digest of the files that are trained on; "" where what is trained on follows from the options and the code."""
        return ""

    def share_batch(self, processes: int) -> None:
        """Divides the training batch among processes, so that a step of all of them sees as much as before.

        Raises:
            UserError: it does not go round.
        """
        if self.train_batch_size % processes:
            raise UserError(
                f"a training batch of {self.train_batch_size} cannot be shared by {processes} devices; the training would be "
                "another one. Choose a number of devices that divides it, or another --data.train_batch_size."
            )
        self.train_batch_size //= processes

    def describe(self) -> str:
        """What the numbers are on, for results."""
        left_out = self.vocabulary.left_out if self.vocabulary else ()
        without = f" without {', '.join(left_out)}" if left_out else ""
        return type(self).__name__ + without + (f", first {self.limit}" if self.limit else "")

    def val_dataloader(self) -> Any:
        return self.loader(self.benchmark("val"))

    def test_dataloader(self) -> Any:
        return self.loader(self.benchmark("test"))

    def loader(self, dataset: Any) -> DataLoader[Item]:
        """In order and, on several processes, each picture counted exactly once.

        Raises:
            UserError: no pictures.
        """
        if not len(dataset):
            raise UserError(f"{self.describe()} holds no picture; there is nothing to count.")
        if self.limit:
            dataset = torch.utils.data.Subset(dataset, range(min(self.limit, len(dataset))))
        return DataLoader(
            dataset,
            batch_size=self.batch_size,
            sampler=ExactSampler(dataset),
            num_workers=self.num_workers,
            collate_fn=collate,
        )

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Pictures leave the workers, and reach the device, as bytes: a quarter of what floats would move."""
        if not isinstance(batch, dict):
            return batch
        if "image" not in batch:  # several batches side by side, under their names
            return {name: self.on_after_batch_transfer(part, dataloader_idx) for name, part in batch.items()}
        images = batch["image"]
        return batch | {"image": to_unit(images) if isinstance(images, Tensor) else [to_unit(image) for image in images]}


class TrainingData(DataModule, ABC):
    """Something to train on without labels, and a benchmark, or none, to be scored on.

    Args:
        vocabulary: the class names, where the training needs some.
        scored_on: a benchmark to validate and test on; without one, ``fit`` does not validate.
        options: as of :class:`DataModule`.
    """

    unscored: ClassVar[str]  # why it cannot be scored on by itself

    def __init__(self, vocabulary: Vocabulary | None, scored_on: DataModule | None, **options: Any) -> None:
        super().__init__(vocabulary, **options)  # type: ignore[arg-type]  # without: Segmenter asks for it
        self.scored_on = scored_on

    @abstractmethod
    def train_dataloader(self) -> Any: ...

    def describe(self) -> str:
        return self.scored_on.describe() if self.scored_on else super().describe()

    def prepare_data(self) -> None:
        if self.scored_on:
            self.scored_on.prepare_data()

    def benchmark(self, split: str) -> Benchmark:
        if self.scored_on is None:
            raise UserError(f"{self.unscored}; give a benchmark with --data.scored_on.")
        return self.scored_on.benchmark(split)

    def val_dataloader(self) -> Any:
        return self.scored_on.val_dataloader() if self.scored_on else []

    def test_dataloader(self) -> Any:
        return self.scored_on.test_dataloader() if self.scored_on else self.benchmark("test")
