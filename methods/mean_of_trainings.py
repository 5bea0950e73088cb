"""Several trainings from one start, read as the mean of their weights (as model soups, ICML 2022).

Trainings from the same pretrained weights differ in noise alone: the order of what they see, their dropout. The mean of their
weights has less of that noise, and a picture still costs one pass; the training costs as many times more.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector

STATE = "_extra_state"  # torch's name for what a module adds to a state


class MeanOfTrainings(nn.Module):
    """What the trainings of one fit, one after another, learnt.

    Its state is the weights of those that are finished, (F, N), on the CPU: they are looked at between trainings alone. The
    start is not part of it, for the method's constructor brings it back.

    Args:
        trained: the parameters that are trained, by their names in the method's state.
        trainings: how many.
    """

    def __init__(self, trained: Mapping[str, nn.Parameter], trainings: int) -> None:
        super().__init__()
        self.trained, self.trainings = dict(trained), trainings
        self.sizes = [weight.numel() for weight in trained.values()]
        self.start = parameters_to_vector(trained.values()).detach().cpu()
        self.finished = self.start.new_empty(0, len(self.start))

    @torch.no_grad()
    def start_again(self) -> None:
        """Keeps what a training learnt and goes back to where it began."""
        learnt = parameters_to_vector(self.trained.values())
        self.finished = torch.cat([self.finished, learnt.to(self.finished)[None]])
        for weight, start in zip(self.trained.values(), self.start.split(self.sizes), strict=True):
            weight.copy_(start.view_as(weight))

    def of(self, state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
        """A method's whole state, with the mean over the finished trainings and the present one.

        Args:
            state: as it was trained.
            prefix: of this module's own entry.
        """
        finished = state[prefix + STATE]
        means = {}
        for name, others in zip(self.trained, finished.split(self.sizes, dim=1), strict=True):
            last = state[name]
            means[name] = torch.cat([others.to(last), last.reshape(1, -1)]).mean(0).view_as(last)
        return {**state, **means, prefix + STATE: finished[:0]}

    def get_extra_state(self) -> Tensor:
        return self.finished

    def set_extra_state(self, state: Tensor) -> None:
        self.finished = state.cpu()
