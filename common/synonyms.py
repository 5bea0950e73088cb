"""Words of one class."""

from __future__ import annotations

import torch
from torch import Tensor


def best_of_class(values: Tensor, class_of_word: Tensor) -> Tensor:
    """(B, Q, ...) of words -> (B, K, ...), the highest among each class's, classes in ascending order."""
    classes, position = class_of_word.unique(return_inverse=True)
    if len(classes) == len(position):
        return values[:, position.argsort()] if (position.diff() < 0).any() else values
    best = values.new_full((len(values), len(classes), *values.shape[2:]), -torch.inf)
    index = position.view(1, -1, *[1] * (values.ndim - 2)).expand_as(values)
    return best.scatter_reduce(1, index, values, "amax")
