"""FreeSeg's parts: the similarity map, poolings, ICLIP, mask mining, what is kept of it, partial-label training."""

import io
import json
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, get_args
from unittest import mock

import lightning
import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch.utils._python_dispatch import TorchDispatchMode

import cli
from backbones.clip import CLIP
from commands.lightning import build
from common.batch import IGNORED
from common.errors import UserError
from common.synonyms import best_of_class
from datamodules import DATAMODULES
from evaluation import Vocabulary
from evaluation.protocol_in_words import in_words
from evaluation.windows import resize_image
from methods import METHODS
from methods.freeseg.mined_masks import decode, encode, statistics_of
from methods.freeseg.mining import MiningRules, PartialMask, image_level, mine, partial_label, partial_pixel, scaled, smoothed
from methods.freeseg.partial_loss import augmented, partial_cross_entropy
from methods.freeseg.pooling import Pooling, attended, pool
from methods.freeseg.reach import Reach, over_collection, spread
from methods.freeseg.similarity import itsm, signed
from methods.info_nce import caption_is_true, info_nce
from reporting.checkpoints import last_checkpoint
from reporting.contrast import MeanScoreContrast, ScoreContrast
from reporting.recorder import SaveTraining, save_exported
from tests import data as tiny
from tests.conftest import QUIET, ROOT

FreeSeg: Any = METHODS["FreeSeg"]
ICLIP: Any = METHODS["ICLIP"]


def test_itsm_spans_zero_to_one_for_every_word_alone() -> None:
    similarity = torch.randn(2, 3, 4, 5)
    maps = itsm(similarity)
    assert torch.equal(maps.amin((2, 3)), torch.zeros(2, 3))
    torch.testing.assert_close(maps.amax((2, 3)), torch.ones(2, 3))
    torch.testing.assert_close(itsm(7 * similarity[:, :1] - 3), maps[:, :1])  # neither scale nor offset of a word matters
    assert torch.equal(itsm(torch.ones(1, 1, 2, 2)), torch.zeros(1, 1, 2, 2))


def test_the_sign_is_found_without_ground_truth() -> None:
    upright = torch.zeros(1, 2, 6, 6)
    upright[:, 0, 2:4, 2:4] = 1
    upright[:, 1] = 1 - upright[:, 0]
    found = signed(upright, "auto")
    assert torch.equal(found[:, 0], upright[:, 0])
    assert torch.equal(found[:, 1], upright[:, 0])
    assert torch.equal(signed(upright, "reversed"), 1 - upright)
    assert torch.equal(signed(upright, "raw"), upright)


def test_mean_score_contrast_has_the_sign_of_the_map() -> None:
    mask = torch.zeros(4, 6, dtype=torch.uint8)
    mask[:, 3:] = 1
    mask[0] = 255
    scores = F.one_hot(mask.clamp(max=1).long(), 2).permute(2, 0, 1).float()
    metric = MeanScoreContrast()
    metric.update(5 + 2 * scores, mask)  # the scale of the scores does not matter
    assert float(metric.compute()) == 1.0
    metric.update(-scores, mask)
    assert float(metric.compute()) == 0.0
    half = scores.clone()
    half[1, 1, 3:] = 0.5  # one of three rows on the class half as bright
    metric.update(half, mask)
    assert float(metric.compute()) == pytest.approx((2 - 2 + 1 + 1 - 0.5 / 3) / 6)


def test_contrast_of_a_test_is_that_of_its_maps() -> None:
    data = DATAMODULES["Shapes"]("shapes13", pictures=2, num_workers=0)
    model: Any = METHODS["TrainingFree"]("surgery", protocol_values={"crop": None, "stride": None})
    trainer = lightning.Trainer(**QUIET, callbacks=[ScoreContrast()])
    (logged,) = trainer.test(model, data, verbose=False)
    metric = MeanScoreContrast()
    pictures = data.benchmark("test")
    for picture in (pictures[0], pictures[1]):
        image = resize_image(picture["image"] / 255, model.protocol.windows)
        words = F.interpolate(model(image[None]), picture["mask"].shape, mode="bilinear")[0]
        asked = model.class_of_word.unique().tolist()
        best = {k: words[model.class_of_word == k].amax(0) for k in asked}
        nothing = torch.full_like(words[0], -torch.inf)
        maps = torch.stack([best.get(k, nothing) for k in range(model.vocabulary.num_classes)])
        metric.update(maps, picture["mask"])
    assert logged["test/mean_score_contrast"] == pytest.approx(float(metric.compute()), abs=1e-5)


def test_contrast_of_maps_with_a_channel_for_the_background() -> None:
    values = {"background": "threshold", "background_value": 0.9}
    data = DATAMODULES["Shapes"]("shapes13", pictures=2, num_workers=0)
    model: Any = METHODS["TrainingFree"]("sclip", protocol_values=values)
    model.use_vocabulary(data.vocabulary)
    (found,) = lightning.Trainer(**QUIET, callbacks=[ScoreContrast()]).test(model, data, verbose=False)
    assert model.inference.class_of_score.tolist() == [*model.class_of_word.tolist(), 0]
    assert 0.1 < found["test/mean_score_contrast"] < 0.9


@pytest.mark.parametrize("how", ["smooth_min", "log_sum_exp"])
def test_smoothed_minima_lie_between_minimum_and_mean(how: str) -> None:
    values = torch.randn(2, 30, 5, dtype=torch.float64)
    torch.testing.assert_close(pool(values, how, 1e-4), values.amin(1), atol=2e-3, rtol=1e-3)
    torch.testing.assert_close(pool(values, how, 1e5), values.mean(1), atol=1e-4, rtol=1e-3)
    between = pool(values, how, 0.5)
    assert (between > values.amin(1)).all()
    assert (between < values.mean(1)).all()


def test_masked_maxima_take_allowed_tokens_only() -> None:
    values, mask = torch.randn(2, 6, 3), torch.zeros(2, 6, dtype=torch.bool)
    mask[0, 1:3] = True
    found = pool(values, "masked_max", mask=mask)
    assert torch.equal(found[0], values[0, 1:3].amax(0))
    assert torch.equal(found[1], values[1].amax(0))  # nothing allowed: anything is
    attention = torch.tensor([[0.5, 0.05, 0.3, 0.15]])
    assert attended(attention, 0.6).tolist() == [[True, False, True, False]]
    for how in get_args(Pooling):
        assert pool(values, how).shape == (2, 3)


def test_partial_labels_leave_the_doubtful_out() -> None:
    probability = torch.tensor([[0.6, 0.2, 0.15, 0.04, 0.01], [0.06, 0.05, 0.04, 0.05, 0.05]])
    present, absent = partial_label(5 * probability, MiningRules(positive=0.5, negative=0.1, max_classes=2))
    assert present.tolist() == [[True, True, False, False, False], [True, False, False, False, False]]
    assert absent.tolist() == [[False, False, False, False, True], [False] * 5]
    present, absent = partial_label(5 * probability, MiningRules(partial_label=False))
    assert present.all()
    assert not absent.any()


@pytest.mark.parametrize("count", [16, 171])
def test_thresholds_are_relative_to_the_number_of_classes(count: int) -> None:
    """Four classes share a picture, in the proportions that a softmax leaves them beside many others."""
    cosines = torch.zeros(1, 2, count)
    cosines[0, 0, :4] = torch.tensor([0.9, 0.8, 0.7, 0.6]) / 10
    cosines[0, 0, 4:] = -0.02
    cosines[0, 1, 5] = 0.12  # a thing that only a window shows
    maps = torch.zeros(1, count, 1, 1)
    present, absent = partial_label(image_level(cosines, maps, 100.0, MiningRules()), MiningRules())
    assert present[0].nonzero()[:, 0].tolist() == [0, 1, 2, 3]
    assert absent[0].nonzero()[:, 0].tolist() == [*range(4, count)]
    rules = MiningRules(seen_in="crops")
    present, absent = partial_label(image_level(cosines, maps, 100.0, rules), rules)
    assert present[0].nonzero()[:, 0].tolist() == [0, 1, 2, 3, 5]


OVER_PICTURES = {"span": "collection", "seen_in": "map", "positive": 0.04, "negative": 0.004, "foreground": 0.5, "margin": 0.2}
REGIONS = OVER_PICTURES | {"seen_in": "regions", "positive": 0.015, "max_classes": 16}


@given(st.integers(0, 10**6), st.floats(0.1, 10), st.floats(-3, 3))
def test_neither_scale_nor_offset_of_a_class_matters_over_a_collection(seed: int, by: float, plus: float) -> None:
    similarity = torch.randn(6, 2, 8, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    fainter = similarity * torch.tensor([1, by])[:, None, None] + torch.tensor([0, plus])[:, None, None]
    rules = MiningRules(**OVER_PICTURES)
    maps, same = (scaled(one, rules, Reach.over([one[:2], one[2:]])) for one in (similarity, fainter))
    torch.testing.assert_close(maps, same, atol=1e-3, rtol=1e-3)
    assert (maps.transpose(0, 1).flatten(1) > 1 + 1e-5).sum(1).tolist() == [round(0.01 * 6 * 64)] * 2  # a hundredth is above 1
    torch.testing.assert_close(
        maps.transpose(0, 1).flatten(1).median(1).values, torch.zeros(2), atol=1e-6, rtol=0, check_dtype=False
    )


def test_a_faint_class_is_found_over_a_collection() -> None:
    """Two things side by side; the tower answers to the second's name with a fifth, less than it errs about the first."""
    similarity = 0.05 * torch.rand(20, 2, 8, 8)
    similarity[:10, 0, :2, :4] += 1.0
    similarity[:10, 0, :2, 4:] += 0.3
    similarity[:10, 1, :2, 4:] += 0.2
    shown, found = {}, {}
    for span in ("none", "collection"):
        rules = MiningRules(**OVER_PICTURES | {"span": span})
        maps = scaled(similarity, rules, Reach.over([similarity]))
        shown[span] = image_level(torch.zeros(20, 1, 2), maps, 1.0, rules)
        torch.testing.assert_close(
            shown[span], torch.stack([(maps[:, 0] > maps[:, 1]), maps[:, 1] > maps[:, 0]], 1).float().mean((2, 3))
        )
        mined = mine(maps, shown[span], torch.rand(20, 3, 8, 8), rules, torch.tensor([3, 4]))
        found[span] = [set(one.labels[:2, 4:].unique().tolist()) for one in mined[:10]]
    assert found["collection"] == [{4}] * 10
    assert not any(4 in labels for labels in found["none"])


def test_maps_of_several_sizes_have_one_reach() -> None:
    maps = [torch.rand(1, 3, 4, 4), torch.rand(1, 3, 16, 16), torch.rand(1, 3, 40, 30)]
    reach = Reach.over(maps)
    counted = torch.cat([maps[0].flatten(2), maps[1].flatten(2), maps[2].flatten(2)[:, :, ::5]], 2)[0]
    for value, part in ((reach.low, 0.5), (reach.high, 0.99)):
        torch.testing.assert_close(value, counted.kthvalue(round(part * counted.shape[1]), 1).values)
    for images in (maps, []):  # found again without any
        found = over_collection(
            images, lambda some: [spread(some)], lambda seen: asdict(Reach.over(seen)), "reach", "maps of several sizes"
        )
        assert torch.equal(found["low"], reach.low)
        assert torch.equal(found["high"], reach.high)


@given(st.integers(0, 10**6), st.floats(0.1, 0.9), st.floats(0, 0.5))
def test_sure_pixels_obey_the_rules(seed: int, foreground: float, margin: float) -> None:
    maps = torch.rand(3, 4, 5, generator=torch.Generator().manual_seed(seed))
    chosen = partial_pixel(maps, MiningRules(foreground=foreground, margin=margin))
    best = maps.sort(0, descending=True).values
    sure = (best[0] >= foreground) & (best[0] - best[1] >= margin)
    assert torch.equal(chosen, torch.where(sure, maps.argmax(0), -1))
    with_background = partial_pixel(maps, MiningRules(foreground=foreground, background=0.05, margin=margin))
    assert torch.equal(with_background == 3, best[0] <= 0.05)
    everything = partial_pixel(maps, MiningRules(partial_pixel=False))
    assert torch.equal(everything, maps.argmax(0))


def test_small_things_win_where_they_lead_and_nowhere_else() -> None:
    """The margin is that of the class a pixel gets: .9 of one class was called surely the other, whose map was .7."""
    both = torch.stack([torch.full((6, 6), 0.9), torch.full((6, 6), 0.7)])
    for background in (None, 0.2):  # which has nothing to do with it
        rules = {"foreground": 0.6, "margin": 0.1, "background": background}
        assert (partial_pixel(both, MiningRules(**rules)) == 0).all()
        assert (partial_pixel(both, MiningRules(**rules, small_things=True)) == -1).all()  # as large: nothing is sure
    inside = torch.zeros(6, 6, dtype=torch.bool)
    inside[2:4, 2:4] = True
    small = both * torch.stack([torch.ones_like(inside), inside])
    assert (partial_pixel(small, MiningRules(foreground=0.6, margin=0.1)) == 0).all()
    found = partial_pixel(small, MiningRules(foreground=0.6, margin=0.1, small_things=True))
    assert torch.equal(found, inside.long())


def test_mining_paints_classes_and_leaves_the_rest() -> None:
    similarity = torch.zeros(1, 4, 8, 8)
    similarity[0, 2, :, 4:], similarity[0, 1, :, :4] = 1, 1
    similarity[0, 3] = 5 * torch.rand(8, 8)  # the strongest map, of an absent class
    shown, classes = 4 * torch.tensor([[0.001, 0.4, 0.5, 0.05]]), torch.tensor([0, 5, 7, 9])
    rules = {"foreground": 0.8, "positive": 0.4, "negative": 0.08}
    maps = scaled(similarity, MiningRules(**rules))
    (mined,) = mine(maps, shown, torch.rand(1, 3, 16, 16), MiningRules(**rules), classes)
    assert (mined.labels[:, :6] == 5).all()
    assert (mined.labels[:, 10:] == 7).all()
    assert set(mined.labels.unique().tolist()) == {5, 7, IGNORED}
    assert mined.active.nonzero()[:, 0].tolist() == [0, 5, 7]
    with_background = MiningRules(**rules | {"foreground": 2.0}, background=1.0)  # all of it
    (mined,) = mine(maps, shown, torch.rand(1, 3, 16, 16), with_background, classes, 11)
    assert (mined.labels == 11).all()
    assert mined.active.nonzero()[:, 0].tolist() == [0, 5, 7, 11]
    (mined,) = mine(maps, shown, torch.rand(1, 3, 16, 16), with_background, classes)  # there is no such class
    assert (mined.labels == IGNORED).all()
    refine = MiningRules(pamr=2, smooth=True, quantiles=True)
    (refined,) = mine(scaled(similarity, refine), shown, torch.rand(1, 3, 16, 16), refine, classes)
    assert refined.labels.shape == (16, 16)
    plain = MiningRules(span="none", partial_label=False, partial_pixel=False)
    (argmax,) = mine(scaled(similarity, plain), shown, torch.rand(1, 3, 16, 16), plain, classes)
    upsampled = F.interpolate(similarity, (16, 16), mode="bilinear", align_corners=False)[0]
    assert torch.equal(argmax.labels.long(), classes[upsampled.argmax(0)])
    assert argmax.active.nonzero()[:, 0].tolist() == [0, 5, 7, 9]
    even = torch.full((1, 1, 3, 3), 0.5)
    torch.testing.assert_close(smoothed(even), even)
    with pytest.raises(UserError, match=r"0 <= negative 0\.5 <= positive 0\.1"):
        MiningRules(negative=0.5, positive=0.1)
    with pytest.raises(UserError, match=r"seen_in map compares maps, .* Set span collection"):
        MiningRules(seen_in="map")
    with pytest.raises(UserError, match=r"unknown span 'all'\. Known: collection, none, picture"):
        MiningRules(span="all")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="pamr of MiningRules is 'ten'; it must be a whole number from 0 up"):
        MiningRules(pamr="ten")  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"margin of MiningRules is None; it must be a number\."):
        MiningRules(margin=None)  # type: ignore[arg-type]


def test_what_is_kept_of_a_mask_is_the_mask() -> None:
    for ids in ([], [0, 3, 170]):
        labels, active = torch.randint(0, 256, (5, 6), dtype=torch.uint8), torch.zeros(256, dtype=torch.bool)
        active[torch.tensor(ids, dtype=torch.int64)] = True
        again = decode(encode(PartialMask(labels, active)))
        assert torch.equal(again.labels, labels)
        assert torch.equal(again.active, active)


def test_the_best_word_of_a_class_stands_for_it() -> None:
    values = torch.tensor([[1.0, 5.0, 2.0, 4.0]])[..., None].repeat(1, 1, 3).requires_grad_()
    found = best_of_class(values, torch.tensor([7, 2, 7, 4]))
    assert found[0, :, 0].tolist() == [5.0, 4.0, 2.0]  # classes 2, 4, 7
    (gradient,) = torch.autograd.grad(found[0, 2].sum(), values)
    assert gradient[0, :, 0].tolist() == [0.0, 0.0, 1.0, 0.0]
    assert best_of_class(values, torch.tensor([3, 1, 0, 2]))[0, :, 0].tolist() == [2.0, 5.0, 4.0, 1.0]
    assert best_of_class(values, torch.arange(4)) is values


def plainly(
    logits: torch.Tensor, labels: torch.Tensor, active: torch.Tensor, guard: str = "none", at: float = 0.5
) -> torch.Tensor:
    """The same loss with everything written out."""
    fine = F.interpolate(logits, labels.shape[1:], mode="bilinear", align_corners=False)
    fine = fine.masked_fill(~active[..., None, None], -torch.inf)
    counted = (labels != IGNORED) & active.gather(1, labels.long().clamp(max=active.shape[1] - 1).flatten(1)).view_as(labels)
    pixel = F.cross_entropy(fine, labels.long().masked_fill(~counted, IGNORED), ignore_index=IGNORED, reduction="none")[counted]
    if guard != "none" and pixel.mean() < at:
        pixel = pixel.clamp(max=at) if guard == "clamp" else pixel[pixel <= at]
    return pixel.mean()


@given(
    st.integers(0, 10**6), st.integers(2, 9), st.sampled_from(["none", "clamp", "drop"]), st.integers(1, 2000), st.booleans()
)
def test_the_loss_is_the_plain_one(seed: int, classes: int, guard: Any, strip: int, mixed: bool) -> None:
    draw = torch.Generator().manual_seed(seed)
    logits = (3 * torch.randn(2, classes, 3, 5, generator=draw)).requires_grad_()
    labels = torch.randint(0, classes, (2, 9, 10), generator=draw, dtype=torch.uint8)
    labels[torch.rand(2, 9, 10, generator=draw) < 0.3] = IGNORED
    labels[0, 0, 0] = 0
    active = torch.rand(2, classes, generator=draw) < 0.7
    active[0, 0] = True
    at = 2.0
    with mock.patch("methods.map_loss.STRIP", strip), torch.autocast("cpu", enabled=mixed):
        ours = partial_cross_entropy(logits, labels, active, 0.0, guard, at)
    plain = plainly(logits, labels, active, guard, at)
    torch.testing.assert_close(ours, plain, atol=1e-5, rtol=1e-5)
    gradients = [torch.autograd.grad(3 * loss, logits)[0] for loss in (ours, plain)]
    torch.testing.assert_close(*gradients, atol=1e-6, rtol=1e-4)


class Largest(TorchDispatchMode):
    """The most numbers that a tensor held."""

    numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **kwargs or {})
        for one in found if isinstance(found, tuple | list) else [found]:
            self.numbers = max(self.numbers, one.untyped_storage().nbytes() // 4 if isinstance(one, torch.Tensor) else 0)
        return found


def test_the_loss_never_holds_the_fine_logits() -> None:
    """Two pictures of 512 px and 171 classes took a gigabyte."""
    logits = torch.randn(2, 40, 32, 32, requires_grad=True)
    labels = torch.randint(0, 40, (2, 256, 256), dtype=torch.uint8)
    with Largest() as largest, mock.patch("methods.map_loss.STRIP", 2**16):
        torch.autograd.grad(partial_cross_entropy(logits, labels, torch.ones(2, 40, dtype=torch.bool)), logits)
    assert largest.numbers <= 40 * 32 * 256  # one picture, upsampled along one axis; the fine logits are 16 times as many
    with Largest() as largest:
        plainly(logits, labels, torch.ones(2, 40, dtype=torch.bool))
    assert largest.numbers >= logits[..., 0, 0].numel() * 256**2


def test_the_loss_asks_active_classes_at_labelled_pixels() -> None:
    logits, labels = torch.randn(2, 4, 3, 3, requires_grad=True), torch.full((2, 3, 3), IGNORED, dtype=torch.uint8)
    labels[0, 0, 0], labels[1, 1] = 2, 3
    active = torch.tensor([[True, False, True, True], [False, False, False, True]])
    loss = partial_cross_entropy(logits, labels, active)
    first = F.cross_entropy(logits[0, [0, 2, 3], 0, 0][None], torch.tensor([1]))
    torch.testing.assert_close(loss, (first + 0) / 4)  # the second picture has nothing to choose from but its only class
    (gradient,) = torch.autograd.grad(loss, logits)
    assert (gradient[0, 1] == 0).all()
    assert (gradient.abs().sum(1) > 0).sum() == 1
    nothing = partial_cross_entropy(logits, torch.full_like(labels, IGNORED), active)
    assert float(nothing.detach()) == 0
    assert torch.equal(torch.autograd.grad(nothing, logits)[0], torch.zeros_like(logits))
    few = partial_cross_entropy(logits, labels, active, min_labelled_share=0.2)  # the first picture is labelled too little
    assert float(few.detach()) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("guard", ["clamp", "drop"])
def test_the_guard_silences_the_worst_pixels(guard: Any) -> None:
    logits = torch.zeros(1, 2, 1, 10)
    logits[0, 0] = 6
    labels = torch.zeros(1, 1, 10, dtype=torch.uint8)
    labels[0, 0, 3] = 1
    logits[0, :, 0, 3] = torch.tensor([2.0, 0.0])
    logits.requires_grad_()
    active = torch.ones(1, 2, dtype=torch.bool)
    plain = torch.autograd.grad(partial_cross_entropy(logits, labels, active), logits)[0]
    guarded = torch.autograd.grad(partial_cross_entropy(logits, labels, active, 0.0, guard, 0.5), logits)[0]
    assert plain[0, :, 0, 3].abs().sum() > 0
    assert guarded[0, :, 0, 3].abs().sum() == 0
    assert guarded[0, :, 0, 0].abs().sum() > 0


def test_picture_and_mask_move_together() -> None:
    labels = torch.arange(64, dtype=torch.uint8).view(8, 8).repeat_interleave(8, 0).repeat_interleave(8, 1)[None]
    images = labels[:, None].float().expand(-1, 3, -1, -1) / 64
    moved, masks = augmented(images, labels, [(0, 1, 2)])
    assert not torch.equal(masks, labels)
    interior = (F.max_pool2d(masks.float()[:, None], 3, 1, 1) == -F.max_pool2d(-masks.float()[:, None], 3, 1, 1))[:, 0]
    torch.testing.assert_close(moved[:, 0][interior] * 64, masks[interior].float(), atol=0.6, rtol=0)
    again = augmented(images, labels, [(0, 1, 2)])
    assert torch.equal(again[1], masks)
    assert not torch.equal(augmented(images, labels, [(0, 1, 3)])[1], masks)


def data(**options: Any) -> Any:
    plain = {"vocabulary": "shapes16", "train": "pictures", "train_pictures": 12, "train_batch_size": 4, "pictures": 2}
    return DATAMODULES["Shapes"](**{**plain, "num_workers": 0, **options})


def fit(folder: Path, steps: int = 2, **options: Any) -> Any:
    """Mined from the whole picture, which takes a tenth of all views' time."""
    model = FreeSeg(**{"masks": str(folder / "masks"), "learning_rate": 1e-3, "views": [{"short_side": 64}]} | options)
    lightning.Trainer(default_root_dir=folder, max_steps=steps, **QUIET).fit(model, data())
    return model


def names_of(model: Any) -> dict[int, str]:
    return dict(enumerate(model.vocabulary.names))


def test_one_fit_mines_keeps_and_trains(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = fit(tmp_path)
    assert "of the pixels labelled" in capsys.readouterr().out
    with Image.open(io.BytesIO(model.figure)) as preview:
        assert preview.width > 1000
    images = data().train_dataloader().dataset
    expected = model.mine(torch.stack([images[0, i]["image"] for i in range(12)]))
    kept = [decode(content) for content in model.mined.read(range(12), lambda missing: [])]
    for one, other in zip(expected, kept, strict=True):
        assert torch.equal(one.labels.cpu(), other.labels)
        assert torch.equal(one.active.cpu(), other.active)
    found = statistics_of(model.mined, names_of(model))
    counts = torch.stack([torch.bincount(one.labels.flatten(), minlength=256) for one in kept]).sum(0)
    assert [found.pixels[name] for name in model.vocabulary.names] == counts[: len(model.words)].tolist()
    assert found.labelled_share == pytest.approx(1 - int(counts[IGNORED]) / int(counts.sum()))
    (shard,) = (tmp_path / "masks").iterdir()
    before = shard.stat().st_mtime_ns
    fit(tmp_path)
    assert shard.stat().st_mtime_ns == before  # nothing is mined twice
    fit(tmp_path, mining={"foreground": 0.8})
    assert len(list((tmp_path / "masks").iterdir())) == 2  # other rules beside the first


@pytest.mark.parametrize("mining", [{}, OVER_PICTURES, REGIONS])
def test_mined_on_the_fly_is_as_mined_before(tmp_path: Path, mining: dict[str, Any]) -> None:
    losses = [
        {k: v.clone() for k, v in fit(tmp_path / str(masks), masks=masks, mining=mining).network.state_dict().items()}
        for masks in (str(tmp_path / "kept"), None)
        for _ in [torch.manual_seed(0)]
    ]
    for name, value in losses[0].items():
        torch.testing.assert_close(value, losses[1][name], atol=1e-4, rtol=1e-3, msg=name)


def test_masks_over_a_collection_are_kept_for_that_collection(tmp_path: Path) -> None:
    """A picture's mask depends on the other pictures: with others beside it, it is another mask."""
    found = {}
    for count in (12, 6):
        model = FreeSeg(masks=str(tmp_path / "masks"), mining=OVER_PICTURES, views=[{"short_side": 64}])
        lightning.Trainer(default_root_dir=tmp_path, max_steps=1, **QUIET).fit(model, data(train_pictures=count))
        images = torch.stack([data().train_dataloader().dataset[0, i]["image"] for i in range(count)])
        expected = Reach.over([model.similarity(images / 255)[1]])
        torch.testing.assert_close(model.reach.high, expected.high, atol=1e-5, rtol=1e-4)
        found[count] = [decode(content).labels for content in model.mined.read(range(6), lambda missing: [])]
        assert all(torch.equal(a, b.labels) for a, b in zip(found[count], model.mine(images[:6]), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(found[12], found[6], strict=True))


def test_the_tower_looks_once_at_a_picture_that_is_measured_and_mined(tmp_path: Path) -> None:
    """And its mask is that of a tower that looks again."""
    rules = {"seen_in": "regions", "span": "collection", "positive": 0.015, "negative": 0.004}
    images = data(train_pictures=20).train_dataloader().dataset
    model = FreeSeg(rule="surgery", mining=rules, masks=str(tmp_path / "masks"), views=[{"short_side": 64}])
    model.use_vocabulary(Vocabulary.load("shapes16"))
    pictures = torch.stack([images[0, i]["image"] for i in range(20)])
    tower = type(model.backbone)
    with (
        mock.patch.object(type(model), "trainer", mock.Mock(is_global_zero=False)),
        mock.patch.object(tower, "tokens", autospec=True, side_effect=tower.tokens) as looks,
    ):
        model._preview = lambda images: b""
        model.prepare_fit(images, 0)
    assert sum(len(call.args[1]) for call in looks.call_args_list) == 2 * 20  # each with its mirrored copy
    mined = model.mined.read(range(20), lambda missing: [])
    assert all(torch.equal(decode(a).labels, b.labels) for a, b in zip(mined, model.mine(pictures), strict=True))


def test_masks_of_ones_own_pictures_are_mined_over_them(tmp_path: Path) -> None:
    images = [data().train_dataloader().dataset[0, i]["image"] for i in range(3)]
    (tmp_path / "photos").mkdir()
    for i, image in enumerate(images):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(tmp_path / "photos" / f"{i}.png")
    (tmp_path / "photos" / "broken.png").write_bytes(b"no picture")
    options = ["--config", "configs/freeseg/shapes.yaml", "--model.predicts", "mined", "--classes", "shapes16"]
    files = ["--images", str(tmp_path / "photos"), "--output", str(tmp_path / "out")]
    assert cli.main(["predict", *options, *files, "--model.mining.pamr", "0"]) == 2  # the broken one
    model = FreeSeg(rule="surgery", mining=REGIONS)
    model.use_vocabulary(Vocabulary.load("shapes16"))
    model.measure_reach(lambda: (image[None] for image in images))
    for i, mask in enumerate(model.mine(torch.stack(images))):
        with Image.open(tmp_path / "out" / "labels" / f"{i}.png.png") as written:
            assert torch.equal(torch.from_numpy(np.array(written)), mask.labels)
    assert len({*mask.labels.unique().tolist()}) > 2


def test_pictures_are_read_before_their_masks_are_mined_only_where_they_are_measured() -> None:
    film = mock.Mock()
    type(film.datamodule).items = mock.PropertyMock(side_effect=UserError("it is a film"))
    for mining, asked in (({}, 0), (OVER_PICTURES, 1)):
        model = FreeSeg(predicts="mined", mining=mining)
        with (
            mock.patch.object(type(model), "trainer", film),
            pytest.raises(UserError, match="a film") if asked else nullcontext(),
        ):
            model.on_predict_start()
    with pytest.raises(UserError, match="no picture can be read"):
        model.measure_reach(list)


def test_what_is_wrong_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no pixel of any picture was labelled"):
        fit(tmp_path / "b", mining={"margin": 2.0, "max_classes": 2, "positive": 0.0, "negative": 0.0})
    with pytest.raises(UserError, match="unknown mining rule 'forground'"):
        FreeSeg(mining={"forground": 0.5})
    closed = FreeSeg(closed_outputs=16)
    closed.use_vocabulary(Vocabulary.load("shapes16"))
    assert closed(torch.rand(1, 3, 64, 64)).shape == (1, 16, 16, 16)
    with pytest.raises(UserError, match="FreeSeg has a closed head of 16 outputs, 'shapes12' asks for 12"):
        closed.use_vocabulary(Vocabulary.load("shapes12"))
    with pytest.raises(UserError, match="is no projection that ICLIP wrote"):
        FreeSeg(iclip="nowhere.safetensors")


@pytest.mark.parametrize("mining", [{}, {"span": "collection", "seen_in": "map"}])
def test_pictures_of_several_sizes_are_told(mining: dict[str, Any], tmp_path: Path) -> None:
    for side in (70, 80):
        Image.fromarray(np.full((side, 90, 3), side, np.uint8)).save(tmp_path / f"{side}.png")
    whole = {"crop": "none", "train_batch_size": 2, "classes": "shapes16", "num_workers": 0}
    pictures = DATAMODULES["UnlabeledImages"](str(tmp_path), **whole)
    with pytest.raises(UserError, match=r"of several sizes, and here all must have one\. Set --data\.crop centre"):
        lightning.Trainer(default_root_dir=tmp_path, max_steps=1, **QUIET).fit(FreeSeg(masks=None, mining=mining), pictures)


def test_what_is_missing_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match=r"the training pictures have no captions\. Set --data\.captions true"):
        lightning.Trainer(default_root_dir=tmp_path, max_steps=1, **QUIET).fit(ICLIP(), data())
    model = fit(tmp_path, mining={"max_classes": 1, "foreground": 0.999, "margin": 0.6})
    said = capsys.readouterr().out
    found = statistics_of(model.mined, names_of(model))
    assert found.never_found == [name for name, pixels in found.pixels.items() if not pixels] != []
    assert f"never found, and not trained: {', '.join(found.never_found)}" in said  # and training goes on
    kept = [decode(content) for content in model.mined.read(range(12), lambda missing: [])]
    assert found.empty == sum(not (one.labels != IGNORED).any() for one in kept) > 0
    not_by_words = {"background": "threshold", "background_value": 0.1}
    nowhere = FreeSeg(masks=str(tmp_path / "masks"), mining={"background": -1.0}, protocol_values=not_by_words)
    lightning.Trainer(default_root_dir=tmp_path, max_steps=1, **QUIET).fit(nowhere, data(vocabulary="shapes13"))
    assert "never found, and not trained: background, " in capsys.readouterr().out


def test_background_is_learnt_where_it_is_mined(tmp_path: Path) -> None:
    model = FreeSeg(masks=None, mining={"background": 0.3, "foreground": 0.6})
    vocabulary = Vocabulary.parse("background; red striped disc; blue plain triangle")
    assert vocabulary.background == 0
    model.use_vocabulary(vocabulary)
    assert model.class_of_word.tolist()[-1] == 0
    asked = len(model.words)
    images = torch.stack([data().train_dataloader().dataset[0, i]["image"] for i in range(4)])
    mined = model.mine(images)
    assert all(set(one.labels.unique().tolist()) <= {0, 1, 2, IGNORED} for one in mined)
    assert any((one.labels == 0).any() for one in mined)
    assert all(one.active[0] for one in mined)
    logits = model(images / 255)
    assert logits.shape[1] == asked + 1
    assert model.background.requires_grad
    model.use_vocabulary("red striped disc; blue plain triangle")
    assert not model.background.requires_grad  # DDP would wait for its gradient
    assert not any((one.labels == 0).all() for one in model.mine(images))
    assert model(images / 255).shape[1] == 2


@pytest.mark.parametrize("pool_space", ["features", "similarity"])
@pytest.mark.parametrize("text", ["captions", "names"])
def test_iclip_learns_its_projection_alone(tmp_path: Path, pool_space: str, text: str) -> None:
    model = ICLIP(pool_space=pool_space, text=text, pooling="masked_max", mask="attention", learning_rate=1e-2)
    assert model.sees.value == ("pictures with captions" if text == "captions" else "unlabelled pictures")
    before = {k: v.clone() for k, v in model.state_dict().items()}
    trainer = lightning.Trainer(default_root_dir=tmp_path, max_steps=2, callbacks=[SaveTraining()], **{**QUIET, "logger": True})
    trainer.fit(model, data(train="captions"))
    moved = {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
    assert moved == {"projection", "logit_scale"}
    (file,) = tmp_path.rglob("iclip.safetensors")
    free = FreeSeg(iclip=str(file), masks=None)
    assert free.sees == model.sees  # what the projection has seen
    assert METHODS["SimilarityMap"](iclip=str(file)).sees == model.sees
    free.use_vocabulary(Vocabulary.load("shapes16"))
    plain = FreeSeg(masks=None)
    plain.use_vocabulary(Vocabulary.load("shapes16"))
    images = torch.rand(1, 3, 64, 64)
    assert torch.equal(free.similarity(images)[0], plain.similarity(images)[0])  # recognition keeps CLIP's own projection
    assert not torch.equal(free.similarity(images)[1], plain.similarity(images)[1])


def test_iclip_trains_on_the_tokens_that_it_is_used_on(tmp_path: Path) -> None:
    """It projected plain CLIP's tokens in training and those of ``rule`` ever after."""
    batch = next(iter(data(train="captions").train_dataloader()))
    batch = data().on_after_batch_transfer(batch, 0)
    losses = {}
    for rule in ("clip", "maskclip", "surgery"):
        model = ICLIP(rule=rule, pooling="max", pool_space="similarity", keep=0.0)
        model.use_vocabulary(Vocabulary.load("shapes16"))
        model.log = lambda *_, **__: None
        losses[rule] = float(model.training_step(batch, 0).detach())
        tokens = model.backbone.tokenizer(batch["caption"])
        text = F.normalize(model.backbone.clip.encode_text(tokens), dim=-1)
        used = torch.einsum("bchw,qc->bqhw", model.patch_features(batch["image"]), text).amax((2, 3))
        true = caption_is_true(batch["said"], batch["visible"])
        assert losses[rule] == pytest.approx(float(info_nce(used, true, model.logit_scale.exp()).detach()), abs=1e-4)
    assert len({round(loss, 3) for loss in losses.values()}) == 3
    assert ICLIP().rule_name == FreeSeg().rule_name
    save_exported(ICLIP(rule="clip"), tmp_path)
    with pytest.raises(UserError, match=r"was trained on the tokens of rule clip, not surgery\. Give --model\.rule clip"):
        FreeSeg(iclip=str(tmp_path / "iclip.safetensors"), rule="surgery")
    assert FreeSeg(iclip=str(tmp_path / "iclip.safetensors"), rule="clip").projection is not None


VIEWS = [{"short_side": 64}, {"short_side": 96, "crop": 64, "stride": 32}, {"short_side": 128}]


def test_the_map_is_the_mean_over_views_and_mirrored_pictures() -> None:
    model = FreeSeg(masks=None, views=VIEWS, rule="surgery")
    model.use_vocabulary(Vocabulary.load("shapes16"))
    images = torch.rand(2, 3, 64, 64)
    cosines, similarity, patches = model.similarity(images)
    mirrored = model.similarity(images.flip(3)).map
    plain = FreeSeg(masks=None, views=VIEWS, rule="surgery")
    with (
        mock.patch("methods.freeseg.similarity.feature_surgery", lambda scores, whole: scores),
        mock.patch("methods.freeseg.similarity.SHARPNESS", 0.0),
    ):
        plain.use_vocabulary(model.vocabulary)
        torch.testing.assert_close(plain.similarity(images).map, patches)
    torch.testing.assert_close(mirrored.flip(3), similarity, atol=1e-4, rtol=1e-3)
    assert similarity.shape == (2, 16, 16, 16)  # the finest view's grid
    assert cosines.shape == (2, 1 + 4 + 1, 16)
    whole = model.backbone.embed_image(images) @ model.text_QC.T
    torch.testing.assert_close(cosines[:, 0], whole, atol=1e-5, rtol=1e-4)
    alone = [replace(model.similarity, views=(view,))(images)[1] for view in model.views]
    upsampled = [F.interpolate(one, (16, 16), mode="bilinear", align_corners=False) for one in alone]
    torch.testing.assert_close(similarity, torch.stack(upsampled).mean(0), atol=1e-5, rtol=1e-4)


def test_windows_of_a_view_are_those_of_the_protocol() -> None:
    """Under one rule, without mirroring, a view is what the training-free method gives for the protocol's windows."""
    model, plain = FreeSeg(masks=None, rule="surgery"), METHODS["TrainingFree"]("surgery")
    images = torch.rand(1, 3, 128, 128)
    symmetric = (images + images.flip(3)) / 2
    for one in (model, plain):
        one.use_vocabulary(Vocabulary.load("shapes16"))
    (scored,) = plain.score_images([symmetric[0]])
    view = model.views[1]
    assert (view.short_side, view.crop, view.stride) == (128, 64, 32)
    maker = replace(model.similarity, views=(view,))
    found = F.interpolate(maker(symmetric)[1], (128, 128), mode="bilinear", align_corners=False)[0]
    merged = scored.merge(slice(None), (128, 128))
    assert F.cosine_similarity(found.flatten(), ((merged + merged.flip(2)) / 2).flatten(), 0) > 0.99


@pytest.mark.parametrize("views", [None, [{"short_side": 128}], VIEWS])
def test_the_memory_of_mining_is_bounded(views: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the views: 64 pictures, mirrored, at twice the size, were 128 of four times the pixels at once."""
    seen: list[int] = []
    tokens = CLIP.tokens

    def counted(self: Any, images: torch.Tensor, *rest: Any, **options: Any) -> Any:
        seen.append(images[:, 0].numel())
        return tokens(self, images, *rest, **options)

    monkeypatch.setattr(CLIP, "tokens", counted)
    images = torch.stack([data().train_dataloader().dataset[0, i]["image"] for i in range(6)])
    found = []
    for batch in (8, 64):
        model = FreeSeg(masks=None, views=views, window_batch=batch)
        model.use_vocabulary(Vocabulary.load("shapes16"))
        seen.clear()
        found.append(torch.stack([one.labels for one in model.mine(images)]))
        assert max(seen) <= batch * 64**2
    assert (found[0] != found[1]).float().mean() < 1e-3


def test_wrong_views_are_told() -> None:
    for views, message in (
        ([{"short_side": 128, "crop": 64, "stride": 32}], "it must be the whole picture"),
        ([{}, {"crop": 60, "stride": 32}], "crop 60 and stride 32 must be multiples of the patch, 8"),
        ([{"size": 64}], "unknown setting of a view 'size'"),
        ([{"short_side": "big"}], "short_side is 'big'"),
    ):
        with pytest.raises(UserError, match=message):
            FreeSeg(views=views)


def test_the_row_of_the_map_is_the_map_that_was_mined() -> None:
    """The same numbers, from the two configs that the comparison names."""
    arguments = ["--trainer.logger=false", "--trainer.enable_checkpointing=false"]
    row, learner = (build(["--config", f"configs/freeseg/{name}.yaml", *arguments]).model for name in ("map_shapes", "shapes"))
    images = torch.stack([data().train_dataloader().dataset[0, i]["image"] for i in range(3)])
    for one in (row, learner):
        one.use_vocabulary(Vocabulary.load("shapes16"))
        assert one.backbone.name == learner.backbone.name
    similarity = learner.similarity(images / 255)[1]
    for scored, expected in zip(row.score_images([*images]), similarity, strict=True):
        torch.testing.assert_close(scored.scores[0], expected, atol=1e-6, rtol=1e-5)
    upsampled = F.interpolate(similarity, (64, 64), mode="bilinear", align_corners=False)
    labels = torch.stack([one.labels for one in row.segment([*images])])
    assert (labels == upsampled.argmax(1)).float().mean() > 0.999
    row.protocol = row.protocol.changed(short_side=48, crop=32, stride=16)  # windows of the network's test
    torch.testing.assert_close(row.score_images([images[0]])[0].scores[0], similarity[0], atol=1e-6, rtol=1e-5)
    assert "cuts its windows itself" in " ".join(in_words(row.protocol))
    methods = yaml.safe_load((ROOT / "configs" / "compare" / "freeseg.yaml").read_text())["methods"]
    assert [m["config"] for m in methods if m["name"] == "the map that is mined"] == ["configs/freeseg/map_shapes.yaml"]


def asked_twice(said: str) -> Vocabulary:
    return Vocabulary.parse("; ".join(f"{name}, {said.format(name)}" for name in Vocabulary.load("shapes16").names))


def test_a_class_asked_by_two_words_is_mined_as_by_one() -> None:
    """Two near-identical words shared out their class's probability and took the lead from each other: 68 % became 5 %."""
    images = torch.stack([data(train_pictures=32).train_dataloader().dataset[0, i]["image"] for i in range(32)])
    model = FreeSeg(masks=None, rule="surgery")
    mined = {}
    for said, vocabulary in (
        ("once", Vocabulary.load("shapes16")),
        ("twice", asked_twice("{}")),
        ("alike", asked_twice("a {}")),
    ):
        model.use_vocabulary(vocabulary)
        mined[said] = model.mine(images)
    once, twice, alike = (torch.stack([one.labels for one in mined[said]]) for said in ("once", "twice", "alike"))
    assert (once != twice).float().mean() < 1e-4
    assert all(torch.equal(a.active, b.active) for a, b in zip(mined["once"], mined["twice"], strict=True))
    covered, still = ((labels != IGNORED).float().mean() for labels in (once, alike))
    assert covered > 0.5
    assert still > 0.9 * covered
    both = (once != IGNORED) & (alike != IGNORED)
    assert (once == alike)[both].float().mean() > 0.95


def test_surgery_weighs_each_word_of_a_class() -> None:
    """As in the published form over all words, of which a class keeps the best; the ground words of a background differ."""
    model = FreeSeg(masks=None, rule="surgery", views=[{"short_side": 64}])
    model.use_vocabulary(Vocabulary.parse("grass, sand, water; red striped disc; blue plain triangle, triangle"))
    images, classes = torch.rand(2, 3, 64, 64), model.class_of_text
    assert classes.tolist() == [0, 0, 0, 1, 2, 2]
    both = torch.cat([images, images.flip(3)])
    pooled, dense = model.backbone.tokens(both, "surgery", "bicubic", pooled=True)
    words, patches = pooled @ model.text_QC.T, torch.einsum("bchw,qc->bqhw", dense, model.text_QC)
    powers = (2 * words).exp()  # the weights of the published form, but for the sum that they are divided by
    every = torch.stack([powers[:, classes == k].amax(1) for k in range(3)], 1).mean(1)  # a class counts once
    weighted = patches * (powers / every[:, None])[..., None, None]
    best = torch.stack([weighted[:, classes == k].amax(1) for k in range(3)], 1)
    expected = best - best.mean(1, keepdim=True)
    expected = (expected[:2] + expected[2:].flip(3)) / 2
    torch.testing.assert_close(model.similarity(images)[1], expected, atol=1e-5, rtol=1e-4)


def test_synonyms_are_not_punished_in_training(tmp_path: Path) -> None:
    trained = []
    for classes in (Vocabulary.load("shapes16"), asked_twice("{}")):
        torch.manual_seed(0)
        model, pictures = FreeSeg(masks=None, learning_rate=1e-3), data()
        pictures.vocabulary = classes
        lightning.Trainer(default_root_dir=tmp_path, max_steps=2, **QUIET).fit(model, pictures)
        trained.append(model.network.state_dict())
    for name, value in trained[0].items():
        torch.testing.assert_close(value, trained[1][name], atol=1e-4, rtol=1e-3, msg=name)


def test_a_class_that_was_never_found_is_not_unlearnt(monkeypatch: pytest.MonkeyPatch) -> None:
    model = FreeSeg(masks=None, augment=False, mining={"background": 0.1})
    model.use_vocabulary("background; red striped disc; blue plain triangle; grass")
    model.log = lambda *_, **__: None
    batch = {"image": torch.rand(2, 3, 64, 64), "index": torch.arange(2)}

    def step(*found: int) -> set[int]:
        """Classes whose logits have a gradient, of masks that hold the classes ``found`` and deny the others."""
        labels = torch.tensor(found, dtype=torch.uint8).repeat_interleave(64 * 64 // len(found)).view(64, 64)
        active = torch.zeros(256, dtype=torch.bool)
        active[:4] = True
        monkeypatch.setattr(model, "mine", lambda images: [PartialMask(labels, active)] * 2)
        logits = torch.randn(2, len(model.class_of_word), 16, 16, requires_grad=True)
        monkeypatch.setattr(model, "forward", lambda images: logits)
        (gradient,) = torch.autograd.grad(model.training_step(batch, 0), logits)
        return set(model.class_of_word[gradient.abs().sum((0, 2, 3)) > 0].tolist())

    assert step(0, 1) == {0, 1}
    assert step(1, 3) == {0, 1, 3}
    checkpoint: dict[str, Any] = {"state_dict": {}}
    model.on_save_checkpoint(checkpoint)
    again = FreeSeg(masks=None, mining={"background": 0.1})
    again.on_load_checkpoint(checkpoint)
    assert again.found.nonzero()[:, 0].tolist() == [0, 1, 3]


def test_a_closed_head_has_an_output_a_class() -> None:
    model = FreeSeg(masks=None, closed_outputs=3, mining={"background": 0.2})
    model.use_vocabulary("background; red striped disc, red disc; blue plain triangle, blue triangle, triangle")
    assert model.class_of_word.tolist() == [0, 1, 2]
    assert model.similarity(torch.rand(1, 3, 64, 64))[1].shape[1] == len(model.class_of_text.unique())


def test_masks_are_counted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every fit, and every process of it, read all masks again: 165 s for COCO."""
    model = fit(tmp_path)
    read: list[Any] = []
    real = decode
    monkeypatch.setattr("methods.freeseg.mined_masks.decode", lambda content: read.append(1) or real(content))
    again = statistics_of(model.mined, names_of(model))
    assert not read
    assert again.labelled_share > 0.3
    model.use_vocabulary(Vocabulary.load("shapes12"))
    assert set(statistics_of(model.mined, names_of(model)).pixels) == set(model.vocabulary.names)  # other names, other counts
    assert len(read) == 12


REAL = {  # config -> what makes its data, the pictures that are trained on, the list that is left out
    "voc": (tiny.make_voc, "VOCdevkit/VOC2012/JPEGImages", "VOCdevkit/VOC2012/ImageSets/Segmentation/val.txt"),
    "context": (tiny.make_context, "VOCdevkit/VOC2010/JPEGImages", "VOCdevkit/VOC2010/ImageSets/Main/val.txt"),
    "coco_stuff": (tiny.make_coco, "train2017", None),
}


@pytest.mark.parametrize("name", REAL)
def test_the_real_configs_train_and_are_tested(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With several words a class, and no picture of the test in training; the small networks."""
    make, images, left_out = REAL[name]
    make(tmp_path / "data")
    for i in range(3):
        tiny.picture(tmp_path / "data" / images, f"train{i}", (64, 80), seed=i)
    config = yaml.safe_load((ROOT / "configs" / "freeseg" / f"{name}.yaml").read_text())
    given = config["data"]["init_args"]
    assert given["images"] == f"/data/{images}"
    assert given.get("leave_out") == (left_out and f"/data/{left_out}")
    given |= {"images": str(tmp_path / "data" / images), "size": 64, "train_batch_size": 3, "num_workers": 0}
    given |= {"leave_out": str(tmp_path / "data" / left_out)} if left_out else {}
    given["scored_on"]["init_args"] |= {"root": str(tmp_path / "data"), "limit": 1}
    small = {"clip": "tiny_clip", "pretrained": "embedded", "network": "segformer_embedded", "network_weights": None}
    config["model"]["init_args"] |= small | {"network_revision": None, "protocol_values": {"templates": "plain"}}
    config["trainer"] |= {"max_steps": 1, "default_root_dir": str(tmp_path / "runs"), "accelerator": "cpu"}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    assert cli.main(["fit", "--config", str(tmp_path / "config.yaml")]) == 0
    assert "of the pixels labelled" in capsys.readouterr().out
    checkpoint = last_checkpoint(tmp_path / "runs")
    assert cli.main(["test", "--config", str(tmp_path / "config.yaml"), f"--ckpt_path={checkpoint}"]) == 0
    (result,) = (tmp_path / "runs").rglob("metrics.json")
    said = json.loads(result.read_text())
    assert (said["protocol"], said["vocabulary"]) == ("freeseg", given["scored_on"]["init_args"]["vocabulary"])
    model = build(["--config", str(tmp_path / "config.yaml"), "--trainer.logger=false"]).model
    model.use_vocabulary(said["vocabulary"])
    rules = model.protocol
    assert (rules.windows.short_side, rules.windows.crop, rules.decision.area_threshold) == (512, 512, 0.0)
