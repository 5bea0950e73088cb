"""Random numbers that follow from (seed, step, picture) alone, so that no division into processes or workers changes them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor


def run_seed(seed: int | None = None) -> int:
    """``seed``, or that of the run (``--seed_everything``) if it is None."""
    return int(os.environ.get("PL_GLOBAL_SEED", "0")) if seed is None else seed


@contextmanager
def drawing_from(seed: int) -> Iterator[None]:
    """Inside, torch draws from this seed; afterwards it goes on as if nothing had been drawn. A GPU's numbers stay."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


class ImageNoise:
    """One stream per picture of a batch.

    Args:
        seed: of the run.
        step: of the training.
        index: (B,) of the pictures in their dataset.
    """

    def __init__(self, seed: int, step: int, index: Tensor) -> None:
        self.streams = [np.random.default_rng([seed, step, i]) for i in index.tolist()]
        self.device = index.device

    def __call__(self, *shape: int) -> Tensor:
        """The next uniform numbers (B, *shape) in [0, 1)."""
        drawn = np.stack([stream.random(shape, dtype=np.float32) for stream in self.streams])
        return torch.from_numpy(drawn).to(self.device)
