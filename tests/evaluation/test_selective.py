"""Selective prediction: the counts against a plain sort, the threshold against drawn pictures."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import UserError
from evaluation import Vocabulary
from evaluation.label_map import LabelMap
from evaluation.risk_control import Risks
from evaluation.selective import (
    BINS,
    THRESHOLDS,
    RiskCoverage,
    coverage_at,
    losses_of,
    none_below,
    outcomes,
    risk_at,
    told_apart,
)

NONE = 3  # the train id of what the words leave out


def drawn(rng: np.random.Generator, ties: bool) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A label map, probabilities at the bins' lower ends, and a mask with pixels that do not count or have no word."""
    shape = rng.integers(1, 9, 2)
    bins = rng.integers(0, 4, shape) * 300 if ties else rng.integers(0, BINS, shape)
    mask = rng.choice([0, 1, 2, NONE, 255], shape).astype(np.uint8)
    return torch.from_numpy(rng.integers(0, 3, shape).astype(np.uint8)), THRESHOLDS[bins], torch.from_numpy(mask)


def sorted_risks(scores: np.ndarray, wrong: np.ndarray) -> np.ndarray:
    """Risk of the n most confident pixels, n = 1..N; equal ones share their errors evenly, as in the mean over their orders."""
    mean_wrong = {score: wrong[scores == score].mean() for score in np.unique(scores)}
    errors = [mean_wrong[score] for score in np.sort(scores)[::-1]]
    return np.cumsum(errors) / np.arange(1, len(errors) + 1)


@settings(max_examples=60)
@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.booleans())
def test_equals_a_plain_sort(seed: int, pictures: int, ties: bool) -> None:
    rng, metric, scores, wrong, other = np.random.default_rng(seed), RiskCoverage(none=NONE), [], [], []
    for _ in range(pictures):
        labels, score, mask = drawn(rng, ties)
        metric.update(labels, score, mask)
        counted = mask != 255
        scores += score[counted].tolist()
        wrong += (labels != mask)[counted].tolist()
        other += (mask == NONE)[counted].tolist()
    found, total = metric.compute(), len(scores)
    if not total:
        assert found["aurc"].isnan()
        return
    coverages = torch.arange(1, total + 1, dtype=torch.float64) / total
    risks, known = sorted_risks(np.array(scores), np.array(wrong)), ~np.array(other)
    np.testing.assert_allclose(found["aurc"], risks.mean())
    np.testing.assert_allclose(risk_at(found["histogram"], coverages), risks, atol=1e-9)
    for stated in (0.1, 0.5):
        keeps = [np.array(scores) >= t for t in {2.0, *scores}]
        allowed = [kept.mean() for kept in keeps if not kept.any() or np.array(wrong)[kept].mean() <= stated]
        np.testing.assert_allclose(coverage_at(found["histogram"], stated), max(allowed))
    if known.all() or not known.any():
        assert np.isnan(told_apart(found["histogram"])).all()
    else:
        inside, outside = np.array(scores)[known], np.array(scores)[~known]
        pairs = (inside[:, None] > outside).mean() + (inside[:, None] == outside).mean() / 2
        first = max(t for t in inside if (inside >= t).mean() >= 0.95 - 1e-9)
        np.testing.assert_allclose(told_apart(found["histogram"]), [pairs, (outside >= first).mean()])


@given(st.integers(0, 2**32 - 1))
def test_losses_are_wrong_and_kept_pixels_of_all_counted_ones(seed: int) -> None:
    labels, score, mask = drawn(np.random.default_rng(seed), ties=False)
    loss = losses_of(outcomes(labels, score, mask, none=NONE)).double() / 2**32
    counted = mask != 255
    for threshold in range(0, BINS, 97):
        kept_wrong = (score >= THRESHOLDS[threshold]) & (labels != mask) & counted
        share = kept_wrong.sum() / max(1, counted.sum())
        assert share - 1e-6 <= loss[threshold] <= share + 1e-6
    assert (loss.diff() <= 0).all()


def test_sums_are_exact_in_any_order_and_padding_adds_nothing() -> None:
    """What other processes counted is added as it is; a picture of which nothing counts, such as padding, is not judged."""
    rng = np.random.default_rng(0)
    pictures = [drawn(rng, ties=False) for _ in range(20)]
    whole, parts = RiskCoverage(none=NONE), [RiskCoverage(none=NONE) for _ in range(3)]
    for i, picture in enumerate(pictures):
        whole.update(*picture)
        parts[i % 3].update(*picture)
    parts[2].update(*(pictures[0][0], pictures[0][1], torch.full_like(pictures[0][2], 255)))
    for state, reduce in whole._reductions.items():
        assert reduce is torch.sum or "sum" in reduce.__name__
        assert torch.equal(getattr(whole, state), sum(getattr(part, state) for part in parts))
    assert whole.compute()["judged"] == sum(bool((mask != 255).any()) for _, _, mask in pictures)


def test_none_below_keeps_what_the_threshold_keeps() -> None:
    labels, score, mask = drawn(np.random.default_rng(1), ties=False)
    risks = risks_of([(labels, score, mask)])
    for threshold, coverage in zip(risks.thresholds, risks.coverage, strict=True):
        kept = none_below(LabelMap(labels, score), threshold).labels != 255
        assert (kept & (mask != 255)).sum() / (mask != 255).sum() == pytest.approx(coverage)
    unsure = none_below(LabelMap(labels, torch.full_like(score, torch.nan)), 0.0)
    assert (unsure.labels == 255).all()


def risks_of(pictures: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]) -> Risks:
    metric = RiskCoverage(none=NONE)
    for picture in pictures:
        metric.update(*picture)
    found = metric.compute()
    return Risks.of({"words": {"cat": "cat"}}, "drawn", found["histogram"], found["losses"], int(found["judged"]))


@pytest.mark.parametrize("risk", [0.1, 0.25])
def test_the_mean_loss_of_further_pictures_is_at_most_the_risk(risk: float) -> None:
    """Pictures that differ a lot from each other, whose pixels are far from independent; and the bound is not idle."""
    rng, realised, without = np.random.default_rng(0), [], []
    for _ in range(200):
        skill, bins = rng.beta(2, 1, (20, 1)), rng.integers(200, 900, (20, 30))
        wrong = rng.random((20, 30)) > skill * bins / 900
        code = (np.arange(20)[:, None] * 3 + wrong) * BINS + bins
        counts = torch.from_numpy(np.bincount(code.ravel(), minlength=20 * 3 * BINS)).view(20, 3, BINS)
        seen, new = (Risks.of({}, "", part.sum(0), losses_of(part).sum(0), len(part)) for part in (counts[:-1], counts[-1:]))
        realised.append(new.loss[new.place(seen.threshold(risk))])
        without.append(new.loss[0])
    error = np.std(realised) / len(realised) ** 0.5
    assert np.mean(realised) <= risk + 2 * error
    assert np.mean(realised) >= risk - 1 / 20 - 3 * error  # at most B / (n + 1) below, but for steps of the loss
    assert np.mean(without) > 0.4


def test_the_smallest_threshold_that_holds_is_taken() -> None:
    risks = Risks({}, "drawn", 9, [0.0, 0.3, 0.6], loss=[0.5, 0.2, 0.0], coverage=[1.0, 0.5, 0.0], risk=[0.5, 0.4, 0.0])
    assert risks.threshold(0.55) == 0.0  # (9 * 0.5 + 1) / 10
    assert risks.threshold(0.54) == 0.3
    assert risks.threshold(0.1) == 0.6
    assert [risks.place(t) for t in (0.0, 0.2, 0.3, 0.5, 0.99)] == [0, 0, 1, 1, 2]
    with pytest.raises(UserError, match=r"a risk of 0\.09 takes more labelled pictures: 9 cannot vouch for less than 0\.1"):
        risks.threshold(0.09)
    with pytest.raises(UserError, match=r"no threshold has a risk of 0\.2"):
        replace(risks, loss=[0.5, 0.4, 0.3]).threshold(0.2)


def test_a_risk_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    risks = risks_of([drawn(np.random.default_rng(2), ties=False)])
    risks.save(tmp_path / "risk.json")
    assert Risks.read(tmp_path / "risk.json") == risks
    assert set(risks.thresholds) <= {float(f"{t:.9g}") for t in THRESHOLDS.tolist()}
    content = json.loads((tmp_path / "risk.json").read_text())
    columns = {"loss": []}, {"risk": ["high"] * len(risks.risk)}, {"pictures": "many"}
    for broken in ([], {}, *(content | column for column in columns)):
        (tmp_path / "broken.json").write_text(json.dumps(broken))
        with pytest.raises(UserError, match="is no risk file: "):
            Risks.read(tmp_path / "broken.json")


def test_classes_left_out_are_none_of_the_words_or_the_background() -> None:
    objects, whole = Vocabulary.load("voc20"), Vocabulary.load("voc21")
    values = np.array([[0, 1, 8, 12, 255]], np.uint8)  # background, aeroplane, cat, dog
    without = objects.without(["cat", "aeroplane"])
    names = without.names
    assert (len(names), without.none, without.left_out) == (18, 18, ("cat", "aeroplane"))
    assert without.to_train_ids(values).tolist() == [[255, 18, 18, names.index("dog"), 255]]
    assert without.named_only(torch.tensor([[18, 3]])).tolist() == [[255, 3]]
    assert without.hash != objects.hash
    seen = whole.without(["cat"])
    assert seen.none is None
    assert seen.to_train_ids(values).tolist() == [[0, 1, 0, seen.names.index("dog"), 255]]


@pytest.mark.parametrize(
    ("left_out", "message"),
    [
        (["lion"], "unknown class of 'voc21' to leave out 'lion'"),
        (["background"], "'background' cannot be left out"),
        (list(Vocabulary.load("voc21").names[1:]), "has no class left"),
    ],
)
def test_what_cannot_be_left_out(left_out: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Vocabulary.load("voc21").without(left_out)
