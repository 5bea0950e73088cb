"""ZeroSeg's parts: grouping, views and their cache, losses, the masked autoencoder; and group-based evaluation."""

import json
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from transformers import GroupViTConfig
from transformers.models.groupvit.modeling_groupvit import GroupViTTokenAssign

from backbones.clip import CLIP
from backbones.mae import MAE
from common.errors import UserError
from common.randomness import ImageNoise
from datamodules import DATAMODULES
from evaluation import Protocol, Vocabulary
from evaluation.rules import Decision
from methods import METHODS
from methods.zeroseg.grouping import GroupingBlock, GroupingRules, SegmentationHead, hard_assignment
from methods.zeroseg.segment_tokens import SegmentTokens, token_probabilities
from methods.zeroseg.token_segmenter import majority_labels
from methods.zeroseg.views import embed_views, grid_boxes
from reporting.predictions import SavePredictions
from tests.conftest import QUIET

ZeroSeg: Any = METHODS["ZeroSeg"]


def noise(batch: int, step: int = 0) -> ImageNoise:
    return ImageNoise(0, step, torch.arange(batch))


def test_the_grouping_block_is_groupvits() -> None:
    theirs: Any = GroupViTTokenAssign(
        GroupViTConfig(vision_config={"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 128}).vision_config,
        6,
        6,
    ).eval()
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    ours = GroupingBlock(32, 2, 6, GroupingRules()).eval()
    attention, crossing = theirs.assign, theirs.pre_assign_attn
    pairs = [
        (ours.norm_tokens, theirs.norm_tokens),
        (ours.norm_x, theirs.norm_x),
        (ours.norm_mixed, theirs.norm_post_tokens),
        (ours.norm_crossed, crossing.norm_post),
        (ours.cross_norm, crossing.norm2),
        (ours.q, attention.q_proj),
        (ours.k, attention.k_proj),
        (ours.v, attention.v_proj),
        (ours.out, attention.proj),
        (ours.norm_out, theirs.norm_new_x),
        (ours.cross.out_proj, crossing.attn.out_proj),
    ]
    for mlp, same in ((ours.mix_tokens, theirs.mlp_inter), (ours.cross_mlp, crossing.mlp), (ours.mlp_out, theirs.mlp_channels)):
        pairs += [(mlp[0], same.fc1), (mlp[2], same.fc2)]
    for mine, its in pairs:
        mine.load_state_dict(its.state_dict())
    qkv = (crossing.attn.q_proj, crossing.attn.k_proj, crossing.attn.v_proj)
    ours.cross.in_proj_weight.data = torch.cat([p.weight.data for p in qkv])
    ours.cross.in_proj_bias.data = torch.cat([p.bias.data for p in qkv])
    x, tokens = torch.randn(2, 20, 32), torch.randn(2, 6, 32)
    with torch.no_grad():
        expected, soft = theirs(x, tokens)
        segments, assignment = ours(x, tokens, None)
    torch.testing.assert_close(assignment, soft, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(segments, expected, atol=1e-5, rtol=1e-5)


def test_every_patch_joins_one_group_and_gradients_are_the_softmaxs() -> None:
    logits = torch.randn(3, 5, 11, requires_grad=True)
    plain, drawn = hard_assignment(logits, None), hard_assignment(logits, noise(3))
    for assigned in (plain, drawn):
        torch.testing.assert_close(assigned.sum(1), torch.ones(3, 11))
        assert set(assigned.detach().round(decimals=5).unique().tolist()) == {0.0, 1.0}
    assert not torch.equal(plain, drawn)
    weights = torch.randn(3, 5, 11)
    (gradient,) = torch.autograd.grad((plain * weights).sum(), logits)
    (soft,) = torch.autograd.grad((logits.softmax(1) * weights).sum(), logits)
    torch.testing.assert_close(gradient, soft)
    frequent = hard_assignment(torch.tensor([2.0, 0.0])[None, :, None].expand(1, 2, 4000), noise(1))[0, 0].mean()
    assert float(frequent) == pytest.approx(1 / (1 + np.exp(-2)), abs=0.03)  # the Gumbel trick draws from the softmax


def test_the_soft_map_sums_to_one_and_follows_the_patches() -> None:
    head = SegmentationHead(32, 2, [6, 3], [2, 2, 1], GroupingRules()).eval()
    x, order = torch.randn(2, 20, 32), torch.randperm(20)
    with torch.no_grad():
        tokens, soft = head(x)
        again, shuffled = head(x[:, order])
    assert tokens.shape == (2, 3, 32)
    torch.testing.assert_close(soft.sum(1), torch.ones(2, 20))
    torch.testing.assert_close(shuffled, soft[:, :, order], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(again, tokens, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_the_losses_are_the_papers(reduction: str) -> None:
    model = ZeroSeg(set_reduction=reduction)
    z, tokens, views = torch.randn(2, 8), torch.randn(2, 3, 8, requires_grad=True), torch.randn(2, 5, 8)
    views[:, 0] = tokens[:, 0].detach()  # the whole picture equals a token, and must not count
    found = model.distances(z, tokens, views)

    def l1(a: torch.Tensor, b: torch.Tensor) -> float:
        return float((a - b).abs().mean())

    expected = {"distill": 0.0, "match": 0.0, "cover": 0.0}
    for b in range(2):
        expected["distill"] += sum(l1(z[b], views[b, k]) for k in range(5)) / (5 if reduction == "mean" else 1)
        pairs = [[l1(tokens[b, i].detach(), views[b, j]) for j in range(1, 5)] for i in range(3)]
        expected["match"] += sum(min(row) for row in pairs) / (3 if reduction == "mean" else 1)
        expected["cover"] += sum(min(column) for column in zip(*pairs, strict=True)) / (4 if reduction == "mean" else 1)
    for name, value in expected.items():
        assert float(found[name]) == pytest.approx(value / 2, abs=1e-5)
    found["match"].backward()
    nearest = (tokens.detach()[:, :, None] - views[:, None, 1:]).abs().mean(-1).argmin(2)
    chosen = torch.stack([views[b, 1 + nearest[b]] for b in range(2)])
    assert tokens.grad is not None
    assert torch.equal(tokens.grad.sign(), (tokens.detach() - chosen).sign())


def test_the_masked_autoencoder_keeps_and_restores() -> None:
    model = MAE("embedded").eval()
    images = torch.rand(2, 3, 64, 64)
    latent = model.encode(images, noise(2)(64), 0.6)
    assert latent.tokens.shape == (2, 1 + int(64 * 0.4), 192)
    assert latent.mask.sum(1).tolist() == [39, 39]
    assert torch.equal(latent.ids_restore.sort(1).values, torch.arange(64).expand(2, 64))
    loss = model.reconstruction_loss(images, latent)
    visible = (1 - latent.mask).unflatten(1, (8, 8)).repeat_interleave(8, 1).repeat_interleave(8, 2)[:, None]
    torch.testing.assert_close(model.reconstruction_loss(images + visible, latent), loss)
    assert (model.reconstruction_loss(images + 1 - visible, latent) - loss).abs() > 0.1
    assert model.model.decoder.decoder_pos_embed.abs().sum() > 0
    everything = model.encode(images)
    assert model.reconstruction_loss(images, everything) == 0  # and not 0 / 0
    assert everything.tokens.shape == (2, 65, 192)
    assert torch.equal(everything.ids_restore[0], torch.arange(64))
    assert model.encode(torch.rand(1, 3, 30, 50)).grid == (4, 7)


def test_a_student_started_from_its_teacher_sees_what_it_sees() -> None:
    clip, student = CLIP(), MAE("embedded").eval()
    student.start_from(clip)
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        expected = clip.visual.ln_post(clip.encode(images, "bicubic")[0])
        torch.testing.assert_close(student.encode(images).tokens, expected, atol=1e-4, rtol=1e-4)
    with pytest.raises(UserError, match=r"\(192, 3, 8\).*it cannot start from the teacher"):
        MAE("embedded").start_from(CLIP("ViT-S-32-alt", None))


def test_views_are_the_grids_cells() -> None:
    boxes = grid_boxes(64, 64, [1, 2, 3])
    assert len(boxes) == 14
    assert boxes[0] == (0, 0, 64, 64)
    assert boxes[5:8] == [(0, 0, 21, 21), (0, 21, 21, 43), (0, 43, 21, 64)]
    clip, images = CLIP(), torch.rand(2, 3, 64, 64)
    views = embed_views(clip, images, [1, 2])
    torch.testing.assert_close(views[:, 0], clip.embed_image(images, unit=False), atol=1e-4, rtol=1e-4)
    corner = F.interpolate(images[:, :, 32:, :32], (64, 64), mode="bicubic", antialias=True).clamp(0, 1)
    torch.testing.assert_close(views[:, 3], clip.embed_image(corner, unit=False), atol=1e-3, rtol=1e-3)


def data(**options: Any) -> Any:
    plain = {"vocabulary": "shapes16", "train": "pictures", "train_pictures": 12, "train_batch_size": 4, "pictures": 2}
    return DATAMODULES["Shapes"](**{**plain, "num_workers": 0, **options})


def fit(folder: Path, **options: Any) -> Any:
    torch.manual_seed(0)
    model = ZeroSeg(**{"grids": [1, 2], "warmup_share": 0.0, "learning_rate": 1e-2} | options)
    lightning.Trainer(default_root_dir=folder, max_steps=3, **QUIET).fit(model, data())
    return model


def test_cached_and_uncached_training_agree(tmp_path: Path) -> None:
    deviations = {"feature_norm": "standardised", "cover": 0.7, "group_tokens": [6], "depths": [1, 0], "mixing": False}
    cached = fit(tmp_path, cache=str(tmp_path / "views"), **deviations)
    plain = fit(tmp_path, cache=None, **deviations)
    assert cached.views is not None
    assert plain.views is None
    before = ZeroSeg(grids=[1, 2], **deviations).state_dict()
    for (name, a), b in zip(cached.state_dict().items(), plain.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, atol=2e-3, rtol=2e-2, msg=name)  # float16 views
        if name.startswith("teacher"):
            assert torch.equal(a, before[name])


def test_wrong_settings_are_refused(tmp_path: Path) -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({"depths": [2, 1]}, "must be one more than the group_tokens' 2 stages"),
        ({"grids": [2, 3]}, "the first must be 1"),
        ({"segment_projection": "none"}, "segment tokens are 192 wide, the teacher's embedding 128"),
        ({"feature_norm": "unit"}, "unknown feature_norm 'unit'"),
        ({"encoder_init": "mae", "mae_weights": str(tmp_path)}, "MAE weights .* cannot be loaded"),
    ]
    for options, message in cases:
        with pytest.raises(UserError, match=message):
            ZeroSeg(**options)
    images = tmp_path / "images"
    images.mkdir()
    for i in range(2):
        Image.fromarray(np.full((70, 80, 3), 60 * i, np.uint8)).save(images / f"{i}.png")
    random = DATAMODULES["UnlabeledImages"](str(images), size=64, crop="random", train_batch_size=2, num_workers=0)
    with pytest.raises(UserError, match="crop random change from epoch to epoch"):
        lightning.Trainer(max_steps=1, **QUIET).fit(ZeroSeg(), random)
    whole = DATAMODULES["UnlabeledImages"](str(images), crop="none", train_batch_size=2, num_workers=0)
    with pytest.raises(UserError, match=r"are of several sizes; nothing can be kept of them\. Set --data\.crop centre"):
        lightning.Trainer(max_steps=1, **QUIET).fit(ZeroSeg(), whole)
    centre = DATAMODULES["UnlabeledImages"](str(images), size=64, train_batch_size=1, classes="cat; dog", num_workers=0)
    model = ZeroSeg()
    lightning.Trainer(max_steps=1, **QUIET).fit(model, centre)  # a batch of one is no special case
    assert model.student.model.vit.layernorm.weight.isfinite().all()


def test_noise_is_a_pictures_own() -> None:
    both, one = noise(2)(3, 4), ImageNoise(0, 0, torch.tensor([1]))(3, 4)
    assert torch.equal(both[1], one[0])
    assert not torch.equal(both[0], both[1])
    assert not torch.equal(noise(2, 1)(3, 4), both)


@pytest.mark.parametrize("gate_classes", [0, 2])
def test_group_probabilities_are_groupvits_rules(gate_classes: int) -> None:
    torch.manual_seed(3)
    text = F.normalize(torch.randn(4, 8), dim=-1)
    groups = SegmentTokens(torch.rand(1, 3, 4, 5), torch.randn(1, 3, 8), torch.randn(1, 8))
    protocol = Decision(temperature=5.0, gate_classes=gate_classes)
    found = token_probabilities(groups, text, protocol, (16, 20))
    pixel = F.interpolate(groups.assignment, (16, 20), mode="bilinear").argmax(1)[0]
    cosine = F.normalize(groups.tokens[0], dim=-1) @ text.T
    expected = (5 * cosine).softmax(-1)
    if gate_classes:
        best = (F.normalize(groups.image[0], dim=-1) @ text.T).topk(2).indices.tolist()
        for i in range(3):
            among = (5 * cosine[i][best]).softmax(-1)
            for c in range(4):
                expected[i, c] = expected[i, c] * among[best.index(c)] if c in best else 0
    torch.testing.assert_close(found[0], expected[pixel].permute(2, 0, 1))


def test_the_threshold_is_on_the_affinity() -> None:
    model: Any = METHODS["GroupViT"]()
    model.use_vocabulary(Vocabulary.load("voc21"), Protocol.preset("groupvit", "voc21", short_side=64, crop=64, stride=32))
    (result,) = model.segment([torch.rand(3, 64, 64)], with_score=True)
    assert result.score is not None
    assert result.score.max() < 0.95
    assert (result.labels[result.score < result.score.max()] == 0).all()  # min(value, best): only the best group survives
    assert (result.labels[result.score == result.score.max()] > 0).all()


def test_oracle_labels_are_the_majority() -> None:
    token = torch.tensor([[0, 0, 1], [0, 2, 2]])
    mask = torch.tensor([[3, 3, 255], [1, 0, 255]], dtype=torch.uint8)
    assert majority_labels(token, mask, 4).tolist() == [[3, 3, 0], [3, 0, 0]]


def test_a_published_groupvit_is_loaded_from_its_files(tmp_path: Path) -> None:
    first: Any = METHODS["GroupViT"]()
    first.model.save_pretrained(tmp_path)
    second: Any = METHODS["GroupViT"](str(tmp_path))
    for model in (first, second):
        model.use_vocabulary(Vocabulary.parse("cat; dog"))
    images = torch.rand(1, 3, 64, 64)
    torch.testing.assert_close(first(images), second(images))
    settings = json.loads((tmp_path / "config.json").read_text())
    assert settings["model_type"] == "groupvit"
    with pytest.raises(UserError, match="GroupViT 'nowhere' cannot be loaded"):
        METHODS["GroupViT"]("nowhere")


def test_test_tells_the_tokens_apart(tmp_path: Path) -> None:
    trainer = lightning.Trainer(**{**QUIET, "default_root_dir": tmp_path})
    (logged,) = trainer.test(ZeroSeg(), data(), verbose=False)
    assert 1 <= logged["test/tokens_used"] <= 8
    assert logged["test/oracle_miou"] >= logged["test/miou"] - 0.05


def test_predict_shows_which_patch_belongs_to_which_token(tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    Image.fromarray((np.random.default_rng(0).random((64, 96, 3)) * 255).astype(np.uint8)).save(images / "a.png")
    trainer = lightning.Trainer(callbacks=[SavePredictions(tmp_path / "out")], **QUIET)
    model = METHODS["GroupViT"]()
    trainer.predict(model, DATAMODULES["Pictures"](str(images), "cat; dog"), return_predictions=False)
    (file,) = (tmp_path / "out" / "segments").rglob("*.png")
    with Image.open(file) as shown:
        assert shown.size == (96, 64)
        assert len(np.unique(np.array(shown).reshape(-1, 3), axis=0)) > 10
