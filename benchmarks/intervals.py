"""Whether 95 % intervals of mIoU cover the truth in 95 % of data sets, and whether equal methods are called different in 5 %.

Data sets are drawn from worlds whose true mIoU is known: pictures with a ground and objects, some of whose classes are in very
few pictures; an object is segmented (part of it missed, a little spilt), taken whole for another class, or lost, more often in
a hard picture; ghosts appear on the ground. Two methods with equal rates see the same pictures. Rivals are the bootstrap over
pictures with percentile and with BCa intervals (accelerated by the same jackknife).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.timing import Ratio, paired
from evaluation.jackknife import NORMAL_95, Estimate
from evaluation.metrics import iou_of

RUNS, DRAWS = 400, 1000
NORMAL = NormalDist()


class World:
    """A distribution of pictures and of a method's answers.

    Args:
        name: what it is like.
        classes: with the ground.
        pictures: of a data set.
        rarest: data set's pictures that hold the rarest class, on average; ``median`` of the middle class, and so on.
        median: see there.
        error: share of objects that are taken for another class; half as many more are lost.
        spread: standard deviation of its logarithm over classes.
        ghosts: for every object of a class.
    """

    def __init__(
        self, name: str, classes: int, pictures: int, rarest: float, median: float, error: float, spread: float, ghosts: float
    ) -> None:
        rng, objects = np.random.default_rng(0), classes - 1
        self.name, self.pictures = name, pictures
        rank = np.linspace(0, 2, objects)
        self.presence = np.minimum(rarest * (median / rarest) ** rank / pictures, 0.6)
        self.log_size = rng.uniform(-3.2, -1.5, objects)
        self.error = np.clip(error * np.exp(spread * rng.standard_normal(objects) - spread**2 / 2), 0.01, 0.8)
        self.share = rng.uniform(0.75, 0.95, objects)
        self.ghosts = ghosts * self.presence * self.error / self.error.mean()
        self.taken_for = np.stack([rng.choice(objects, 3) for _ in range(objects)])

    def draw(self, pictures: int, rng: Generator, methods: int) -> list[Tensor]:
        """Areas (N, 3, K) float64 of some methods on the same pictures; a picture has area 1."""
        shape = pictures, len(self.presence)
        size = np.exp(self.log_size + rng.standard_normal(shape)) * (rng.random(shape) < self.presence)
        size *= np.minimum(1, 0.9 / np.maximum(size.sum(1, keepdims=True), 1e-9))
        hard = rng.gamma(1.0, 1.0, (pictures, 1))
        return [torch.from_numpy(self._answer(size, hard, rng)) for _ in range(methods)]

    def _answer(self, size: NDArray[np.float64], hard: NDArray[np.float64], rng: Generator) -> NDArray[np.float64]:
        luck, there = rng.random(size.shape), size > 0
        wrong, lost = there & (luck < self.error * hard), luck < 1.5 * self.error * hard
        right = np.where(there & ~lost, size, 0)
        inside = right * rng.beta(12 * self.share, 12 * (1 - self.share), size.shape)
        predicted = inside + right * rng.gamma(1.0, 0.08, size.shape)
        row, one = np.nonzero(wrong)
        other = self.taken_for[one, rng.integers(0, 3, len(one))]
        np.add.at(predicted, (row, other), size[row, one] * rng.beta(4, 1.5, len(one)) * (other != one))
        row, one = np.nonzero(rng.random(size.shape) < self.ghosts * hard)
        np.add.at(predicted, (row, one), np.exp(self.log_size[one] - 1 + rng.standard_normal(len(row))).clip(0, 0.3))
        ground, left = 1 - size.sum(1), np.clip(1 - predicted.sum(1), 0, 1)
        grounds = 0.97 * np.minimum(ground, left), left, ground
        return np.stack([np.c_[a, b] for a, b in zip(grounds, (inside, predicted, size), strict=True)], 1)

    def truth(self, rng: Generator, pictures: int = 600_000) -> float:
        """mIoU of a data set that is as good as the whole world."""
        parts = [self.draw(20_000, rng, 1)[0].sum(0) for _ in range(pictures // 20_000)]
        return iou_of(torch.stack(parts).sum(0)).nanmean().item()


WORLDS = (
    World("like Shapes", 13, 300, 70, 75, error=0.15, spread=1.0, ghosts=0.1),
    World("like VOC", 21, 1449, 50, 80, error=0.15, spread=1.0, ghosts=0.1),
    World("a third of VOC, rare classes", 21, 462, 2, 20, error=0.08, spread=0.7, ghosts=0.1),
    World("like ADE", 150, 2000, 3, 30, error=0.3, spread=1.0, ghosts=0.1),
    World("like COCO-Stuff", 171, 5000, 8, 150, error=0.3, spread=1.0, ghosts=0.1),
    World("50 pictures", 21, 50, 2, 3, error=0.08, spread=0.7, ghosts=0.1),
)
Interval = tuple[float, float]


@dataclass
class Count:
    """Of a kind of interval: how often the truth was below or above it, its width, and how often equal methods differed."""

    below: float = 0
    above: float = 0
    width: float = 0
    differ: float = 0

    def add(self, truth: float, of_one: Interval, of_difference: Interval) -> None:
        self.below += truth < of_one[0]
        self.above += truth > of_one[1]
        self.width += of_one[1] - of_one[0]
        self.differ += not of_difference[0] <= 0 <= of_difference[1]


def resampled_miou(areas: list[Tensor], draws: int, rng: Generator) -> list[Tensor]:
    """mIoU (draws,) of data sets of pictures drawn with replacement, the same for each of ``areas`` (N, 3, K)."""
    count = len(areas[0])
    times = torch.from_numpy(rng.multinomial(count, np.full(count, 1 / count), size=draws)).double()
    return [iou_of((times @ one.flatten(1).double()).unflatten(1, (3, -1))).nanmean(-1) for one in areas]


def percentile(draws: Tensor) -> Interval:
    low, high = torch.quantile(draws, torch.tensor([0.025, 0.975], dtype=draws.dtype)).tolist()
    return low, high


def bca(draws: Tensor, estimate: Estimate) -> Interval:
    """Bias-corrected and accelerated (Efron 1987)."""
    below = (draws < estimate.value).double().mean() + (draws == estimate.value).double().mean() / 2
    bias = NORMAL.inv_cdf(min(max(below.item(), 1 / len(draws)), 1 - 1 / len(draws)))
    pull = estimate.left_out.mean() - estimate.left_out
    acceleration = ((pull**3).sum() / (6 * (pull**2).sum() ** 1.5)).item()
    shifted = [bias + z for z in (-NORMAL_95, NORMAL_95)]
    at = [NORMAL.cdf(bias + z / (1 - acceleration * z)) for z in shifted]
    low, high = torch.quantile(draws, torch.tensor(at, dtype=draws.dtype)).tolist()
    return low, high


def normal(estimate: Estimate) -> Interval:
    """As :attr:`Estimate.interval`, for differences too."""
    half = NORMAL_95 * estimate.standard_error
    return estimate.value - half, estimate.value + half


def run() -> Iterator[Ratio | str]:
    rng = np.random.default_rng(1)
    for world in WORLDS:
        yield from coverage(world, RUNS, rng)
    (areas,) = WORLDS[1].draw(1449, rng, 1)
    yield paired(
        "interval of 1449 pictures, 21 classes, against 2000 resampled data sets",
        lambda: Estimate.of_miou(areas).interval,
        lambda: percentile(resampled_miou([areas], 2000, rng)[0]),
    )


def coverage(world: World, runs: int, rng: Generator) -> Iterator[str]:
    """A line for each kind of interval."""
    truth, counts, values = world.truth(rng), {name: Count() for name in ("jackknife", "percentile", "BCa")}, []
    for _ in range(runs):
        areas = world.draw(world.pictures, rng, 2)
        one, other = (Estimate.of_miou(each) for each in areas)
        draws, draws_other = resampled_miou(areas, DRAWS, rng)
        values.append(one.value)
        counts["jackknife"].add(truth, one.interval, normal(one - other))
        counts["percentile"].add(truth, percentile(draws), percentile(draws - draws_other))
        counts["BCa"].add(truth, bca(draws, one), bca(draws - draws_other, one - other))
    yield (
        f"{world.name}: {world.pictures} pictures, the rarest of {len(world.presence) + 1} classes in "
        f"{world.presence.min() * world.pictures:.0f}; true mIoU {100 * truth:.1f}, {runs} data sets have "
        f"{100 * np.mean(values):.1f} ± {100 * np.std(values):.1f}"
    )
    for name, count in counts.items():
        covered, below, above, differ = (
            100 * part / runs for part in (runs - count.below - count.above, count.below, count.above, count.differ)
        )
        yield (
            f"  {name:<10} covers {covered:.1f} % (too high {below:.1f}, too low {above:.1f}), "
            f"width {100 * count.width / runs:.1f}, calls equal methods different in {differ:.1f} %"
        )
