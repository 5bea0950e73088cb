"""Boundary IoU against the published definition, written plainly with scipy's erosion, and IoU of small classes by hand."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import binary_erosion

from evaluation import ConfusionMatrix

CLASSES = 3


def boundary(mask: np.ndarray) -> np.ndarray:
    """As ``mask_to_boundary`` of Cheng et al.: the mask without its erosion, what is beyond the picture being no mask."""
    reach = max(1, round(0.02 * float(np.hypot(*mask.shape))))
    return mask & ~binary_erosion(mask, np.ones((3, 3)), iterations=reach, border_value=0)


def plain(pairs: list[tuple[np.ndarray, np.ndarray]]) -> float:
    both, either = np.zeros(CLASSES), np.zeros(CLASSES)
    for prediction, target in pairs:
        counted = target != 255
        for k in range(CLASSES):
            p, t = boundary(prediction == k) & counted, boundary(target == k) & counted
            both[k] += (p & t).sum()
            either[k] += (p | t).sum()
    with np.errstate(invalid="ignore"):
        return float(np.nanmean(both / either))


def blobs(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A map of a few rectangles."""
    labels = np.zeros((height, width), np.uint8)
    for _ in range(4):
        y, x = rng.integers(0, height), rng.integers(0, width)
        labels[y : y + rng.integers(1, height + 1), x : x + rng.integers(1, width + 1)] = rng.integers(0, CLASSES)
    return labels


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 90), st.integers(1, 130), st.integers(0, 2**32 - 1))
def test_along_borders_it_is_the_published_boundary_iou(height: int, width: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    metric, pairs = ConfusionMatrix(CLASSES), []
    for _ in range(2):
        prediction, target = blobs(rng, height, width), blobs(rng, height, width)
        target[rng.random(target.shape) < 0.02] = 255
        pairs.append((prediction, target))
        metric.update(torch.from_numpy(prediction), torch.from_numpy(target))
    if (np.concatenate([target.ravel() for _, target in pairs]) != 255).any():
        np.testing.assert_allclose(metric.result()["boundary_miou"], plain(pairs))


def test_a_shift_that_miou_forgives_is_seen_along_borders() -> None:
    target = torch.zeros(200, 200, dtype=torch.uint8)
    target[40:160, 40:160] = 1
    metric = ConfusionMatrix(2)
    metric.update(target.roll(5, 1), target)
    found = metric.result()
    assert found["miou"] > 0.91
    assert found["boundary_miou"] < 0.70


def test_small_classes_count_only_where_they_are_small() -> None:
    small, large = torch.zeros(2, 100, 100, dtype=torch.uint8)
    small[:10, :10] = 1  # 1 % of the picture
    large[:50] = 1
    found = small.clone()
    found[5:10, :10] = 0  # half of it is missed
    metric = ConfusionMatrix(2)
    metric.update(found, small)
    metric.update(large, large)  # right, and not small
    assert metric.result()["small_miou"].item() == pytest.approx(0.5)
    metric.reset()
    metric.update(large, large)
    assert metric.result()["small_miou"].isnan()
