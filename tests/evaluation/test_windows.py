from dataclasses import replace

import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation.rules import Windows
from evaluation.windows import resize_image, resized_side_lengths, score_windows, window_boxes

sides = st.integers(1, 90)


@given(sides, sides, st.integers(1, 50), st.integers(1, 50))
def test_windows_cover_every_pixel_and_follow_the_published_count(height: int, width: int, crop: int, stride: int) -> None:
    stride = min(stride, crop)
    boxes = window_boxes(height, width, Windows(crop=crop, stride=stride))
    visits = torch.zeros(height, width)
    for top, left, bottom, right in boxes:
        assert (bottom - top, right - left) == (min(crop, height), min(crop, width))
        visits[top:bottom, left:right] += 1
    assert visits.min() >= 1
    per_axis = [max(side - crop + stride - 1, 0) // stride + 1 for side in (height, width)]
    assert len(boxes) == per_axis[0] * per_axis[1]


@given(sides, sides, st.integers(1, 60), st.integers(1, 120))
def test_resize_keeps_the_ratio_and_both_limits(height: int, width: int, short: int, long: int) -> None:
    protocol = Windows(short_side=short, max_long_side=long)
    h, w = resized_side_lengths(height, width, protocol)
    assert max(h, w) <= long + 1
    assert min(h, w) <= short
    scale = min(short / min(height, width), long / max(height, width))
    assert abs(h - height * scale) <= 1
    assert abs(w - width * scale) <= 1


def test_short_side_zero_leaves_an_image_in_its_size() -> None:
    image = torch.rand(3, 30, 50)
    assert torch.equal(resize_image(image, Windows(short_side=0)), image)
    assert resized_side_lengths(300, 500, Windows(short_side=0, max_long_side=100)) == (60, 100)


def mean_colour(images: torch.Tensor) -> torch.Tensor:
    """A stand-in for a backbone: scores (B, 3, h, w) at stride 4."""
    return F.adaptive_avg_pool2d(images, (max(1, images.shape[2] // 4), max(1, images.shape[3] // 4)))


@settings(deadline=None, max_examples=25)
@given(st.lists(st.tuples(st.integers(20, 60), st.integers(20, 60)), min_size=1, max_size=3), st.integers(1, 9))
def test_batching_windows_changes_nothing(shapes: list[tuple[int, int]], batch: int) -> None:
    """All windows of several pictures in one batch against one window of one picture at a time, added up by hand."""
    protocol = Windows(crop=24, stride=12)
    pictures = [torch.rand(3, *shape) for shape in shapes]
    together = score_windows(mean_colour, pictures, protocol, batch)
    for picture, scored in zip(pictures, together, strict=True):
        total, visits = torch.zeros_like(picture), torch.zeros(picture.shape[1:])
        for top, left, bottom, right in window_boxes(*picture.shape[1:], protocol):
            scores = mean_colour(picture[None, :, top:bottom, left:right])
            total[:, top:bottom, left:right] += F.interpolate(scores, (bottom - top, right - left), mode="bilinear")[0]
            visits[top:bottom, left:right] += 1
        torch.testing.assert_close(scored.merge(slice(None), scored.size), total / visits)


def resized(scores: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    return F.interpolate(scores, size, mode="bilinear", align_corners=False)


def test_how_scores_come_to_the_original_size() -> None:
    """A whole picture directly (IFSeg) or over the resized one (NACLIP), which windows always pass, a single one too."""
    size = (48, 64)
    direct = Windows(crop=None, stride=None, short_side=32)
    twice = Windows(crop=None, stride=None, short_side=32, upsampling="twice")
    single = Windows(crop=96, stride=48, short_side=32)
    picture = resize_image(torch.rand(3, *size), direct)
    grid = mean_colour(picture[None])
    for rules, expected in (
        (direct, resized(grid, size)),
        (twice, resized(resized(grid, (32, 43)), size)),
        (single, resized(resized(grid, (32, 43)), size)),
    ):
        (scored,) = score_windows(mean_colour, [picture], rules, 1)
        torch.testing.assert_close(scored.merge(slice(None), size), expected[0])
    assert not torch.allclose(resized(grid, size), resized(resized(grid, (32, 43)), size), atol=1e-3)


def test_antialiasing_averages_where_an_image_shrinks() -> None:
    """Columns 1 0 0 1 shrunk to a quarter: two pixels are looked at without, more than all four with it."""
    image = torch.tensor([1.0, 0, 0, 1]).repeat(16).expand(3, 64, 64)
    rules = Windows(short_side=16, crop=None, stride=None)
    assert resize_image(image, rules).max() == 0
    averaged = resize_image(image, replace(rules, antialias=True))
    torch.testing.assert_close(averaged[:, :, 1:-1], torch.full((3, 16, 14), 0.5), atol=0.1, rtol=0)
