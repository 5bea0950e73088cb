from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from evaluation import label_map
from evaluation.refine import Pamr
from evaluation.rules import Decision
from evaluation.windows import WindowScores

WHOLE = Decision(temperature=20)


def picture_scores(words: int, size: tuple[int, int] = (9, 13), windows: int = 1) -> WindowScores:
    height, width = 4 * size[0], 4 * size[1]
    if windows == 1:
        return WindowScores(torch.randn(1, words, *size), [(0, 0, height, width)], torch.rand(3, height, width), direct=True)
    boxes = [(0, 0, height, width - 8), (0, 8, height, width)]
    return WindowScores(torch.randn(2, words, *size), boxes, torch.rand(3, height, width))


def probabilities(scores: WindowScores, size: tuple[int, int], scale: float) -> Tensor:
    """One shot: all words at full resolution."""
    return torch.softmax(scores.merge(slice(None), size) * scale, 0)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 40), st.integers(1, 45), st.sampled_from([1, 2]), st.integers(5, 80), st.integers(5, 80))
def test_the_running_argmax_equals_the_one_shot_result_exactly(
    words: int, chunk: int, windows: int, height: int, width: int
) -> None:
    scores = picture_scores(words, windows=windows)
    class_of_word = torch.arange(words) // 2
    one_shot = (scores.merge(slice(None), (height, width)) * WHOLE.temperature).argmax(0)
    got = label_map(scores, class_of_word, (height, width), WHOLE, chunk=chunk)
    assert torch.equal(got.labels, class_of_word[one_shot].to(torch.uint8))


def test_of_equal_scores_the_first_word_wins_in_any_chunk() -> None:
    scores = WindowScores(torch.ones(1, 12, 3, 3), [(0, 0, 12, 12)], torch.rand(3, 12, 12))
    assert label_map(scores, torch.arange(12), (12, 12), WHOLE, chunk=5).labels.max() == 0


@settings(deadline=None, max_examples=25)
@given(st.integers(2, 20), st.integers(1, 21), st.floats(0.05, 0.95))
def test_probability_thresholds(words: int, chunk: int, value: float) -> None:
    scores, class_of_word, size = picture_scores(words), torch.arange(words), (30, 41)
    best, word = probabilities(scores, size, 20).max(0)
    for rule in ("words", "constant"):
        protocol = replace(WHOLE, background=rule, background_value=value)
        got = label_map(scores, class_of_word, size, protocol, background=0, chunk=chunk)
        expected = torch.where(best < value, 0, word)
        assert (got.labels != expected).float().mean() < 0.002  # rounding at the threshold itself
        assert got.score is not None
        apart = (best - value).abs() > 1e-5
        confidence = torch.where(best < value, 1 - best, best)  # of the background, that it is not the best word
        torch.testing.assert_close(got.score[apart], confidence[apart], atol=1e-5, rtol=1e-4)


def test_a_label_space_without_background_ignores_the_rule() -> None:
    protocol = replace(WHOLE, background="words", background_value=0.99)
    got = label_map(picture_scores(4), torch.arange(4), (36, 52), protocol, background=None)
    plain = label_map(picture_scores(4), torch.arange(4), (36, 52), WHOLE)
    assert got.labels.unique().numel() > 1
    assert got.score is None
    assert plain.score is None


def test_area_threshold_as_sclip_computes_it() -> None:
    """Probabilities of classes that cover at most a tenth of the foreground are zeroed, then argmax again."""
    class_of_word, size = torch.tensor([0, 0, 1, 2, 2, 3, 4, 5]), (40, 50)
    for _ in range(10):
        scores = picture_scores(8)
        protocol = replace(WHOLE, background="words", background_value=0.3, area_threshold=0.15)
        p = probabilities(scores, size, 20)
        p = torch.stack([p[class_of_word == k].amax(0) for k in range(6)])
        one_hot = F.one_hot(p.argmax(0), 6)[..., 1:].sum((0, 1))
        p[1:] *= (one_hot > 0.15 * one_hot.sum())[:, None, None]
        expected = p.argmax(0)
        expected[p.amax(0) < 0.3] = 0
        got = label_map(scores, class_of_word, size, protocol, background=0, chunk=3)
        assert (got.labels != expected).float().mean() < 0.002


def test_pamr_against_a_plain_loop() -> None:
    picture, maps = torch.rand(3, 7, 8), torch.rand(2, 7, 8)
    offsets = [(d * dy, d * dx) for d in (1, 2) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if dy or dx]

    def at(array: Tensor, y: int, x: int) -> Tensor:
        return array[:, min(max(y, 0), 6), min(max(x, 0), 7)]

    expected = maps
    for _ in range(3):
        step = torch.zeros_like(maps)
        for y in range(7):
            for x in range(8):
                around = torch.stack([at(picture, y + dy, x + dx) for dy, dx in offsets])
                samples = torch.cat([around, picture[None, :, y, x], picture[None, :, y, x]])
                distance = (around - picture[:, y, x]).abs() / (1e-8 + 0.1 * samples.std(0))
                affinity = torch.softmax(-distance.mean(1), 0)
                step[:, y, x] = sum(a * at(expected, y + dy, x + dx) for a, (dy, dx) in zip(affinity, offsets, strict=True))
        expected = step
    torch.testing.assert_close(Pamr(picture, (1, 2), 3)(maps), expected)


def test_pamr_acts_at_the_original_size_on_the_enlarged_resized_image() -> None:
    """NACLIP: cosines come to the original size, and so does the resized picture; then PAMR, then scale and softmax."""
    scores, size = picture_scores(3, windows=2), (50, 71)
    image = F.interpolate(scores.image[None], size, mode="bilinear", align_corners=False)[0]
    refined = Pamr(image, (8, 16), 2)(scores.merge(slice(None), size))
    got = label_map(scores, torch.arange(3), size, replace(WHOLE, refine="pamr", pamr_iterations=2), with_score=True)
    assert got.score is not None
    torch.testing.assert_close(got.score, (20 * refined).softmax(0).amax(0))
    assert torch.equal(got.labels, refined.argmax(0).to(torch.uint8))


def test_pamr_follows_edges() -> None:
    """A noisy map of a two-coloured picture is cleaned on both sides of the edge."""
    picture = torch.zeros(3, 40, 40)
    picture[:, :, 20:] = 1
    picture += 0.01 * torch.randn_like(picture)
    truth = (torch.arange(40) >= 20).long().expand(40, 40)
    noisy = F.one_hot(torch.where(torch.rand(40, 40) < 0.3, 1 - truth, truth), 2).permute(2, 0, 1).float()
    refined = Pamr(picture, (1, 2), 10)(noisy)
    assert (refined.argmax(0) == truth).float().mean() > (noisy.argmax(0) == truth).float().mean() + 0.15


@pytest.mark.parametrize("temperature", [1.0, 100.0])
def test_calibrated_logits_are_not_scaled(temperature: float) -> None:
    scores = picture_scores(4)
    protocol = replace(WHOLE, temperature=temperature)
    got = label_map(scores, torch.arange(4), (36, 52), protocol, scores="logit", with_score=True)
    assert got.score is not None
    torch.testing.assert_close(got.score, probabilities(scores, (36, 52), 1.0).amax(0))
