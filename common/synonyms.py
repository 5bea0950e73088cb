"""Words of one class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

_KNOWN: Any = WeakTensorKeyDictionary()


@dataclass(frozen=True)
class Places:
    """Where each of Q words has its class among the K classes in ascending order.

    Attributes:
        of_word: (Q,) int64 in [0, K).
        classes: K.
        in_order: whether the words come in the order of their classes.
    """

    of_word: Tensor
    classes: int
    in_order: bool


def places(class_of_word: Tensor) -> Places:
    """Of a tensor (Q,) of train ids, found once: which classes there are is no question for a graph (:mod:`torch.export`)."""
    if class_of_word not in _KNOWN:
        classes, position = class_of_word.unique(return_inverse=True)
        _KNOWN[class_of_word] = Places(position, len(classes), not bool((position.diff() < 0).any()))
    return _KNOWN[class_of_word]


def best_of_class(values: Tensor, class_of_word: Tensor) -> Tensor:
    """(B, Q, ...) of words -> (B, K, ...), the highest among each class's, classes in ascending order."""
    found = places(class_of_word)
    if found.classes == len(found.of_word):
        return values if found.in_order else values[:, found.of_word.argsort()]
    best = values.new_full((len(values), found.classes, *values.shape[2:]), -torch.inf)
    index = found.of_word.view(1, -1, *[1] * (values.ndim - 2)).expand_as(values)
    return best.scatter_reduce(1, index, values, "amax")
