"""Reading a trained model part of the way back to what it was before (WiSE-FT, CVPR 2022, Eq. 1)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


class WeightsBefore:
    """Weights as they were before training, to interpolate trained ones with.

    A training that sees no label of the task can pull a pretrained model away from what it knew of pictures; weights between
    the two keep what was learnt and lose less of what was known. The sum is over weights, so a picture still costs one pass.

    Args:
        weights: the pretrained ones that are trained on, by their names in the method's state.
        share: of the trained weights in what is read, from 0 to 1; with 1 nothing is remembered.
    """

    def __init__(self, weights: Mapping[str, Tensor], share: float) -> None:
        self.share = share
        self.weights = {name: weight.detach().clone() for name, weight in weights.items()} if share < 1 else {}

    def interpolated(self, trained: dict[str, Tensor]) -> dict[str, Tensor]:
        """``trained``, a whole state, with ``share`` of its own and the rest of the remembered weights; others stay."""
        mixed = {name: torch.lerp(start.to(trained[name]), trained[name], self.share) for name, start in self.weights.items()}
        return trained | mixed
