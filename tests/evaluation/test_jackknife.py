"""Intervals: against numbers made outside, against a simulation whose truth is known, and paired tests."""

import math

import numpy as np
import pytest
import torch

from benchmarks.intervals import World
from evaluation.jackknife import Estimate


def areas_of(hits: torch.Tensor) -> torch.Tensor:
    """Per-picture areas of a one-class problem with ``hits`` of 100 pixels right."""
    return torch.stack([hits, torch.full_like(hits, 100), torch.full_like(hits, 100)], 1)[..., None]


def test_each_picture_is_left_out_once() -> None:
    """By counting again without it; the third picture holds the only pixels of the last class."""
    areas = torch.tensor(
        [[[5, 0, 0], [7, 1, 0], [6, 2, 0]], [[3, 2, 0], [4, 4, 0], [5, 3, 0]], [[1, 0, 4], [1, 0, 9], [5, 0, 5]]]
    )
    again = []
    for left in range(3):
        inside, predicted, actual = np.delete(areas.numpy(), left, 0).sum(0)
        with np.errstate(invalid="ignore"):
            again.append(np.nanmean(inside / (predicted + actual - inside)))
    found = Estimate.of_miou(areas)
    assert found.left_out.tolist() == pytest.approx(again)
    assert found.value == pytest.approx(np.mean([9 / 19, 2 / 8, 4 / 10]))
    assert found.standard_error == pytest.approx(math.sqrt(2 / 3 * ((np.array(again) - np.mean(again)) ** 2).sum()))


def test_the_interval_of_a_mean_is_the_textbooks() -> None:
    """Where a class fills every picture alike, leaving out is averaging: mean ± 1.96 standard errors."""
    hits = torch.randint(40, 61, (400,))
    share = hits.double() / (200 - hits.double())
    ratio = hits.sum() / (200 * 400 - hits.sum())
    slope = 200 * 400 / (200 * 400 - hits.sum()) ** 2 * 400
    half = 1.96 * hits.double().std() / 400**0.5 * slope
    low, high = Estimate.of_miou(areas_of(hits)).interval
    assert (high + low) / 2 == pytest.approx(ratio.item(), abs=1e-6)
    assert (high - low) / 2 == pytest.approx(half.item(), rel=0.01)
    assert low < share.mean() < high


def test_rare_classes_do_not_push_the_interval_aside() -> None:
    """Ten classes are in one picture each: resampled data sets lose a third of them, and a percentile interval its centre."""
    areas = torch.zeros(200, 3, 11, dtype=torch.int64)
    areas[:, :, 0] = torch.tensor([90, 100, 100])
    areas[10:20, :, 1:] += (
        torch.diag_embed(torch.full((3, 10), 80)).transpose(0, 1)
        + torch.tensor([0, 10, 10])[:, None] * torch.eye(10, dtype=torch.int64)[:, None]
    )
    areas[50:100, 1, 1:] = 1  # and false alarms elsewhere, so that a class without its picture is 0
    found = Estimate.of_miou(areas)
    low, high = found.interval
    times = torch.distributions.Multinomial(200, torch.ones(200)).sample((500,)).double()
    total = (times @ areas.flatten(1).double()).view(500, 3, 11)
    draws = (total[:, 0] / (total[:, 1] + total[:, 2] - total[:, 0])).nanmean(-1)
    assert (draws < found.value).double().mean() > 0.9  # what a bootstrap would be centred on
    assert (low + high) / 2 == pytest.approx(found.value, abs=1e-9)


@pytest.mark.parametrize("rarest", [2, 60])
def test_it_covers_the_truth_and_equal_methods_are_seldom_told_apart(rarest: int) -> None:
    """200 data sets of known mIoU: at most 9 % missed and at most 9 % called different."""
    world = World("", 21, 300, rarest, max(20, rarest), error=0.1, spread=0.7, ghosts=0.1)
    rng = np.random.default_rng(5)
    truth = world.truth(rng, pictures=100_000)
    missed = differ = 0
    for _ in range(200):
        one, other = (Estimate.of_miou(areas) for areas in world.draw(300, rng, 2))
        missed += not one.interval[0] <= truth <= one.interval[1]
        differ += (one - other).p_value < 0.05
    assert missed <= 18
    assert differ <= 18


def test_paired_differences_see_what_intervals_cannot() -> None:
    hard = torch.randint(0, 90, (100,))
    one, better, noise = (
        areas_of(hits) for hits in (hard, hard + torch.randint(0, 4, (100,)), hard + torch.randint(-3, 4, (100,)))
    )
    a, b, c = (Estimate.of_miou(areas) for areas in (one, better, noise))
    assert b.interval[0] < a.interval[1]  # the intervals overlap
    assert (b - a).p_value < 0.01
    assert (a - b).p_value == (b - a).p_value
    assert (a - c).p_value > 0.01
    assert (b - b).p_value == 1


def test_the_p_value_agrees_with_the_interval() -> None:
    left_out = torch.linspace(-1, 1, 50).double()
    error = Estimate(0.0, left_out).standard_error
    assert Estimate(1.96 * error, left_out).p_value == pytest.approx(0.05, abs=1e-4)
    assert Estimate(-2.5758 * error, left_out).p_value == pytest.approx(0.01, abs=1e-4)


def test_seeds_are_averaged_picture_by_picture() -> None:
    first, second = (Estimate.of_miou(areas_of(torch.randint(20, 80, (30,)))) for _ in range(2))
    mean = Estimate.mean([first, second])
    assert mean.value == pytest.approx((first.value + second.value) / 2)
    assert torch.equal(mean.left_out, (first.left_out + second.left_out) / 2)
    assert mean.standard_error < max(first.standard_error, second.standard_error)


def test_one_picture_tells_of_no_interval() -> None:
    alone = Estimate.of_miou(areas_of(torch.tensor([50])))
    assert all(math.isnan(end) for end in alone.interval)
    assert (alone - Estimate.of_miou(areas_of(torch.tensor([60])))).p_value == 1


def test_it_stays_a_fraction() -> None:
    assert Estimate.of_miou(areas_of(torch.tensor([0, 0, 1, 40]))).interval[0] == 0
