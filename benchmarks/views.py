"""ZeroSeg's training with cached views against embedding them at every step (embedded sizes, 30 views a picture)."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import common.compat  # noqa: F401  (must come before what imports torchvision)

import torch

from benchmarks.timing import Ratio, paired, peak_memory, print_added_memory
from datamodules import DATAMODULES
from methods import METHODS
from methods.per_image import PerImage

BATCH = 32


def make() -> tuple[Callable[[], object], Callable[[], object]]:
    """A training step, forward and backward, with cached and with embedded views."""
    torch.manual_seed(0)
    model: Any = METHODS["ZeroSeg"](cache=None)
    model.log = lambda *_, **__: None
    data = DATAMODULES["Shapes"](train="pictures", train_pictures=BATCH, train_batch_size=BATCH, num_workers=0)
    loader = data.train_dataloader()
    batch = data.on_after_batch_transfer(next(iter(loader)), 0)
    model._trainer = type("Steps", (), {"global_step": 0, "training": True})()
    model.teacher.prepare(loader.dataset, 0, tempfile.mkdtemp(), "32", nullcontext)
    cache = model.teacher.kept

    def step(kept: PerImage | None) -> float:
        model.teacher.kept = kept
        model.zero_grad()
        loss = model.training_step(batch, 0)
        loss.backward()
        return float(loss.detach())

    return lambda: step(cache), lambda: step(None)


def run() -> Iterator[Ratio]:
    cached, embedded = make()
    assert abs(cached() - embedded()) < 1e-2  # type: ignore[operator]  # the cache is float16
    yield paired(f"a ZeroSeg step, {BATCH} pictures, cached views against embedding them", cached, embedded, runs=5)
    yield peak_memory("the same: added memory", "benchmarks.views")


if __name__ == "__main__":
    print_added_memory(dict(zip(("ours", "rival"), make(), strict=True))[sys.argv[1]])
