"""A tower that is asked about the same pictures again, with other words, does not look at them again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from backbones.tower import DenseTower

LIMIT = 2_000_000_000  # bytes, on the tower's device
MIXERS = (-7046029254386353131, -4658895280553007687)  # odd, of 64 bits
Tokens = tuple[Tensor | None, Tensor]


class TokenMemory:
    """What :meth:`DenseTower.tokens` gave for pictures seen before, bit for bit if they come in the same batches.

    What is kept is never given up for something newer: pictures that come in the same order again would drive each other out.

    Attributes:
        limit: bytes that are kept at most.
        recalled: how many batches were not looked at again.
    """

    def __init__(self, limit: int = LIMIT) -> None:
        self.limit, self.bytes, self.recalled = limit, 0, 0
        self.kept: dict[Any, Tokens] = {}

    def tokens(self, tower: int, look: Callable[..., Tokens], images: Tensor, *reading: Any, **options: Any) -> Tokens:
        """Those of a tower, by number, that looks with a method of its own."""
        if self.limit == 0 or torch.is_grad_enabled() or any(isinstance(value, Tensor) for value in options.values()):
            return look(images, *reading, **options)
        key = (tower, fingerprint(images), images.shape, reading, tuple(sorted(options.items())))
        if key in self.kept:
            self.recalled += 1
            return self.kept[key]
        found = look(images, *reading, **options)
        size = sum(part.nbytes for part in found if part is not None)
        if self.bytes + size <= self.limit:
            self.kept[key], self.bytes = found, self.bytes + size
        return found


@contextmanager
def remembered(model: nn.Module, memory: TokenMemory) -> Iterator[None]:
    """Within it, the towers of a model, whose weights must not change, share a memory."""
    towers: list[Any] = [module for module in model.modules() if isinstance(module, DenseTower)]
    for number, tower in enumerate(towers):
        tower.tokens = partial(memory.tokens, number, tower.tokens)
    try:
        yield
    finally:
        for tower in towers:
            del tower.tokens  # the class's own shows again


def fingerprint(images: Tensor) -> tuple[int, ...]:
    """128 bits of what float32 images hold and where, made on their device."""
    values = images.float().contiguous().view(torch.int32).flatten().long()
    places = torch.arange(1, len(values) + 1, device=values.device)
    sums = []
    for mixer in MIXERS:
        mixed = (values + places * mixer) * mixer
        mixed = (mixed ^ (mixed >> 29)) * mixer
        sums.append((mixed ^ (mixed >> 32)).sum())
    return tuple(torch.stack(sums).tolist())
