"""FreeSeg's parts: the similarity map, poolings, ICLIP, mask mining and its cache, partial-label training."""

import io
from pathlib import Path
from typing import Any, get_args

import lightning
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from common.errors import UserError
from datamodules import DATAMODULES
from evaluation import Vocabulary
from evaluation.windows import resize_image
from methods import METHODS
from methods.freeseg.mined_masks import decode, statistics_of
from methods.freeseg.mining import IGNORED, MiningRules, mine, partial_label, partial_pixel, smoothed
from methods.freeseg.partial_loss import augmented, partial_cross_entropy
from methods.freeseg.pooling import Pooling, attended, pool
from methods.freeseg.similarity import itsm, signed
from reporting.contrast import MeanScoreContrast, ScoreContrast
from reporting.recorder import SaveTraining
from tests.conftest import QUIET

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
    present, absent = partial_label(probability, MiningRules(positive=0.1, negative=0.02, max_classes=2))
    assert present.tolist() == [[True, True, False, False, False], [True, False, False, False, False]]
    assert absent.tolist() == [[False, False, False, False, True], [False] * 5]
    present, absent = partial_label(probability, MiningRules(partial_label=False))
    assert present.all()
    assert not absent.any()


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


def test_mining_paints_words_and_leaves_the_rest() -> None:
    similarity = torch.zeros(1, 4, 8, 8)
    similarity[0, 2, :, 4:], similarity[0, 1, :, :4] = 1, 1
    similarity[0, 3] = 5 * torch.rand(8, 8)  # the strongest map, of an absent word
    probability = torch.tensor([[0.001, 0.4, 0.5, 0.05]])
    (mined,) = mine(similarity, probability, torch.rand(1, 3, 16, 16), MiningRules(foreground=0.8))
    assert (mined.labels[:, :6] == 1).all()
    assert (mined.labels[:, 10:] == 2).all()
    assert set(mined.labels.unique().tolist()) == {1, 2, IGNORED}
    assert mined.active.tolist() == [True, True, True, False]
    (refined,) = mine(similarity, probability, torch.rand(1, 3, 16, 16), MiningRules(pamr=2, smooth=True, quantiles=True))
    assert refined.labels.shape == (16, 16)
    plain = MiningRules(itsm=False, partial_label=False, partial_pixel=False)
    (argmax,) = mine(similarity, probability, torch.rand(1, 3, 16, 16), plain)
    upsampled = F.interpolate(similarity, (16, 16), mode="bilinear", align_corners=False)[0]
    assert torch.equal(argmax.labels.long(), upsampled.argmax(0))
    assert argmax.active.all()
    even = torch.full((1, 1, 3, 3), 0.5)
    torch.testing.assert_close(smoothed(even), even)
    with pytest.raises(UserError, match=r"0 <= negative 0\.5 <= positive 0\.1"):
        MiningRules(negative=0.5)


def test_the_loss_asks_active_words_at_labelled_pixels() -> None:
    logits, labels = torch.randn(2, 4, 3, 3, requires_grad=True), torch.full((2, 3, 3), IGNORED, dtype=torch.uint8)
    labels[0, 0, 0], labels[1, 1] = 2, 3  # 3 is the background of three words
    active = torch.tensor([[True, False, True], [False, False, False]])
    loss = partial_cross_entropy(logits, labels, active)
    first = F.cross_entropy(logits[0, [0, 2, 3], 0, 0][None], torch.tensor([1]))
    torch.testing.assert_close(loss, (first + 0) / 4)  # the second picture has nothing to choose from but background
    (gradient,) = torch.autograd.grad(loss, logits)
    assert (gradient[0, 1] == 0).all()
    assert (gradient.abs().sum(1) > 0).sum() == 1
    nothing = partial_cross_entropy(logits, torch.full_like(labels, IGNORED), active)
    assert float(nothing.detach()) == 0
    assert torch.equal(torch.autograd.grad(nothing, logits)[0], torch.zeros_like(logits))
    few = partial_cross_entropy(logits, labels, active, min_labelled_share=0.2)  # the first picture is labelled too little
    assert float(few.detach()) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("guard", ["clamp", "drop"])
def test_the_guard_silences_the_worst_pixels(guard: str) -> None:
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
    model = FreeSeg(**{"masks": str(folder / "masks"), "learning_rate": 1e-3} | options)
    lightning.Trainer(default_root_dir=folder, max_steps=steps, **QUIET).fit(model, data())
    return model


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
    found = statistics_of(model.mined, model.words)
    counts = torch.stack([torch.bincount(one.labels.flatten(), minlength=256) for one in kept]).sum(0)
    assert [found.pixels[word] for word in model.words] == counts[: len(model.words)].tolist()
    assert found.labelled_share == pytest.approx(1 - int(counts[IGNORED]) / int(counts.sum()))
    (shard,) = (tmp_path / "masks").iterdir()
    before = shard.stat().st_mtime_ns
    fit(tmp_path)
    assert shard.stat().st_mtime_ns == before  # nothing is mined twice
    fit(tmp_path, mining={"foreground": 0.7})
    assert len(list((tmp_path / "masks").iterdir())) == 2  # other rules beside the first


def test_mined_on_the_fly_is_as_mined_before(tmp_path: Path) -> None:
    losses = [
        {k: v.clone() for k, v in fit(tmp_path / str(masks), masks=masks).network.state_dict().items()}
        for masks in (str(tmp_path / "kept"), None)
        for _ in [torch.manual_seed(0)]
    ]
    for name, value in losses[0].items():
        torch.testing.assert_close(value, losses[1][name], atol=1e-4, rtol=1e-3, msg=name)


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


def test_what_is_missing_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match=r"the training pictures have no captions\. Set --data\.captions true"):
        lightning.Trainer(default_root_dir=tmp_path, max_steps=1, **QUIET).fit(ICLIP(), data())
    model = fit(tmp_path, mining={"max_classes": 1, "foreground": 0.999, "margin": 0.6})
    said = capsys.readouterr().out
    found = statistics_of(model.mined, model.words)
    assert found.never_found == [word for word, pixels in found.pixels.items() if not pixels] != []
    assert f"never found: {', '.join(found.never_found)}" in said  # and training goes on
    kept = [decode(content) for content in model.mined.read(range(12), lambda missing: [])]
    assert found.empty == sum(not (one.labels != IGNORED).any() for one in kept) > 0


def test_background_is_learnt_where_it_is_mined(tmp_path: Path) -> None:
    model = FreeSeg(masks=None, mining={"background": 0.3, "foreground": 0.6})
    vocabulary = Vocabulary.parse("background; red striped disc; blue plain triangle")
    assert vocabulary.background == 0
    model.use_vocabulary(vocabulary)
    assert model.class_of_word.tolist()[-1] == 0
    asked = len(model.words)
    images = torch.stack([data().train_dataloader().dataset[0, i]["image"] for i in range(4)])
    mined = model.mine(images)
    assert any((one.labels == asked).any() for one in mined)
    model._trainer = None
    logits = model(images / 255)
    assert logits.shape[1] == asked + 1


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
    assert free.sees.value == "pictures with captions"  # the projection has seen them
    free.use_vocabulary(Vocabulary.load("shapes16"))
    plain = FreeSeg(masks=None)
    plain.use_vocabulary(Vocabulary.load("shapes16"))
    images = torch.rand(1, 3, 64, 64)
    assert torch.equal(free.similarity(images)[0], plain.similarity(images)[0])  # recognition keeps CLIP's own projection
    assert not torch.equal(free.similarity(images)[1], plain.similarity(images)[1])


def test_the_map_is_the_mean_over_mirrored_pictures_and_scales() -> None:
    model = FreeSeg(masks=None, scales=[1.0, 1.5], rule="surgery")
    model.use_vocabulary(Vocabulary.load("shapes16"))
    images = torch.rand(2, 3, 64, 64)
    _, similarity = model.similarity(images)
    _, mirrored = model.similarity(images.flip(3))
    torch.testing.assert_close(mirrored.flip(3), similarity, atol=1e-4, rtol=1e-3)
    assert similarity.shape == (2, 16, 8, 8)
