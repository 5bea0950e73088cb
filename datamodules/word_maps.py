"""Random maps of class words (IFSeg, section 3.2): what an image-free method trains on, without a mask."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from lightning.pytorch.utilities import CombinedLoader
from torch import Tensor
from torch.utils.data import Dataset

from common.errors import UserError
from common.randomness import run_seed
from common.values import Count, Natural
from datamodules.base import DataModule, TrainingData
from datamodules.sampling import TrainingLoader
from evaluation.vocabulary import Vocabulary

LARGEST_NUMBER = 2**31  # against a few hundred words, the remainder is uniform to one part in ten million


class WordMaps(TrainingData):
    """Grids of random numbers; a method takes them modulo the number of words it asks (:mod:`methods.ifseg.word_maps`).

    Map i of an epoch follows from (seed, epoch, i) alone: height and width uniform in 1..``largest``, cells independent.

    Args:
        classes: a shipped vocabulary or ``"cat; dog"``; default: that of ``scored_on``.
        pictures: unlabelled pictures to give beside the maps, for a method that goes on to train on them.
        scored_on: a benchmark to validate and test on; without one, ``fit`` does not validate.
        largest: most cells along a side (IFSeg: 32).
        maps: maps of one epoch.
        seed: of the maps; default: the run's (``--seed_everything``).
        train_batch_size: maps per step and process (IFSeg: 16 in all).
        num_workers: loader processes.
    """

    unscored = "word maps have no pictures to score on"

    def __init__(
        self,
        classes: str = "",
        pictures: DataModule | None = None,
        scored_on: DataModule | None = None,
        largest: Count = 32,
        maps: Count = 1600,
        seed: Natural | None = None,
        train_batch_size: Count = 16,
        num_workers: Natural = 1,
    ) -> None:
        if not classes and scored_on is None:
            raise UserError("no class names to train on: give --data.classes 'cat; dog' or a benchmark with --data.scored_on.")
        vocabulary = Vocabulary.named(classes) if classes else scored_on.vocabulary if scored_on else None
        assert vocabulary is not None
        if vocabulary.num_classes < 2:
            raise UserError(f"'{vocabulary.names[0]}' is the only class; a map of one word teaches nothing. Name at least two.")
        super().__init__(vocabulary, scored_on, num_workers=num_workers)
        self.pictures = pictures
        self.largest, self.maps, self.seed = largest, maps, run_seed(seed)
        self.train_batch_size = train_batch_size

    def training_content(self) -> str:
        return self.pictures.training_content() if self.pictures else ""

    def share_batch(self, processes: int) -> None:
        super().share_batch(processes)
        if self.pictures:
            self.pictures.share_batch(processes)

    def train_dataloader(self) -> Any:
        """Batches of maps or, with ``pictures``, of both under the names ``maps`` and ``pictures``."""
        if self.pictures is None:
            return self._maps()
        return CombinedLoader({"maps": self._maps(), "pictures": self.pictures.train_dataloader()}, "min_size")

    def _maps(self) -> TrainingLoader:
        dataset = RandomNumbers(self.maps, self.largest, self.seed)
        return TrainingLoader(dataset, self.train_batch_size, self.seed, self.num_workers)


class RandomNumbers(Dataset[dict[str, Tensor]]):
    """Items ``numbers`` (largest, largest) int64, of which the first ``size`` (2,) rows and columns are the map."""

    def __init__(self, maps: int, largest: int, seed: int) -> None:
        self.maps, self.largest, self.seed = maps, largest, seed

    def __len__(self) -> int:
        return self.maps

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Tensor]:
        rng = np.random.default_rng([self.seed, *key])
        size = rng.integers(1, self.largest + 1, 2)
        numbers = rng.integers(0, LARGEST_NUMBER, (self.largest, self.largest))
        return {"numbers": torch.from_numpy(numbers), "size": torch.from_numpy(size)}
