"""Which process reads which pictures: each once in evaluation, shuffled by (seed, epoch) and resumable in training."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from torch.utils.data import DataLoader, DistributedSampler

from common.distributed import rank_and_world


class ExactSampler(DistributedSampler[Any]):
    """Every picture in order, rank r taking r, r + world, ...; all ranks make the same number of steps.

    Where the pictures do not go round, the last ranks read a picture of rank 0 once more, because processes with
    different numbers of steps hang in collectives; :func:`common.distributed.is_padding_sample` says so, and it is not
    counted. This also holds for fewer pictures than processes, which Lightning's ``UnrepeatedDistributedSampler`` refuses.
    """

    def __init__(self, dataset: Any, rank: int | None = None, world: int | None = None) -> None:
        own_rank, own_world = rank_and_world()
        world = own_world if world is None else world
        super().__init__(dataset, num_replicas=world, rank=own_rank if rank is None else rank, shuffle=False)
        self.count = len(dataset)

    def __iter__(self) -> Iterator[int]:
        last_row = (len(self) - 1) * self.num_replicas
        for start in range(0, self.count, self.num_replicas):
            index = start + self.rank
            yield index if index < self.count else last_row

    def __len__(self) -> int:
        return -(-self.count // self.num_replicas)


class EpochSampler(DistributedSampler[Any]):
    """A new order every epoch, the same on every machine: a permutation drawn from (seed, epoch) and dealt to the ranks.

    What is left over when dealing is dropped, so that no picture is seen twice in an epoch. ``shards`` keeps reads local:
    their order is shuffled, and the pictures within each run of ``together`` shards. Yields (epoch, index), so that a
    dataset can draw its crops from both, in any worker.

    Args:
        dataset: anything with a length.
        seed: of the order.
        shards: sizes of the shards that the pictures lie in; None for single files.
        together: shards whose pictures are mixed.
    """

    def __init__(self, dataset: Any, seed: int, shards: np.ndarray | None = None, together: int = 16) -> None:
        rank, world = rank_and_world()
        super().__init__(dataset, num_replicas=world, rank=rank, seed=seed, drop_last=True)
        self.shards, self.together = shards, together
        self.skip = 0  # pictures that this process has already seen in the epoch

    def __iter__(self) -> Iterator[Any]:
        order = epoch_order(len(self.dataset), self.seed, self.epoch, self.shards, self.together)  # type: ignore[arg-type]
        own = order[self.rank : self.num_replicas * len(self) : self.num_replicas]
        for index in own[self.skip :]:
            yield self.epoch, int(index)

    def __len__(self) -> int:
        return len(self.dataset) // self.num_replicas  # type: ignore[arg-type]


class TrainingLoader(DataLoader[Any]):
    """Batches in :class:`EpochSampler`'s order, whose place within the epoch travels in Lightning's checkpoints.

    Going on in mid-epoch passes over what was seen without reading it.

    Args:
        dataset: indexed by (epoch, index).
        batch_size: per process; a last smaller batch is dropped.
        seed: of the order.
        num_workers: loader processes.
        shards: see :class:`EpochSampler`.
        collate_fn: as of torch's loader.
    """

    def __init__(
        self,
        dataset: Any,
        batch_size: int,
        seed: int,
        num_workers: int = 0,
        shards: np.ndarray | None = None,
        collate_fn: Callable[[list[Any]], Any] | None = None,
    ) -> None:
        super().__init__(
            dataset,
            batch_size=batch_size,
            sampler=EpochSampler(dataset, seed, shards),
            drop_last=True,
            num_workers=num_workers,
            persistent_workers=num_workers > 0,
            collate_fn=collate_fn,
        )
        self.given = self.seen = 0  # batches of this epoch; those of them before a restart

    def __iter__(self) -> Any:
        """Starts with the first batch, not before: Lightning asks for an iterator before it says which epoch this is."""
        self.given, self.seen = self.seen, 0
        sampler: Any = self.sampler
        sampler.skip = self.given * (self.batch_size or 1)
        for batch in super().__iter__():
            self.given += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        return {"given": self.given}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.seen = state["given"] % len(self)


def epoch_order(count: int, seed: int, epoch: int, shards: np.ndarray | None = None, together: int = 16) -> np.ndarray:
    """The order (count,) of one epoch; see :class:`EpochSampler`."""
    rng = np.random.default_rng([seed, epoch])
    if shards is None:
        return rng.permutation(count)
    ends = np.cumsum(shards)
    mixed = rng.permutation(len(shards))
    groups = [mixed[i : i + together] for i in range(0, len(mixed), together)]
    return np.concatenate(
        [rng.permutation(np.concatenate([np.arange(ends[s] - shards[s], ends[s]) for s in group])) for group in groups]
    )
