"""ZeroSeg's parts: grouping, views and their cache, losses, the masked autoencoder; and group-based evaluation."""

import json
import math
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

import cli
from backbones.clip import CLIP
from backbones.mae import MAE
from common.errors import UserError
from common.randomness import ImageNoise
from datamodules import DATAMODULES
from evaluation import Vocabulary
from evaluation.inference import with_background
from evaluation.label_map import majority_labels
from evaluation.windows import resize_image, window_boxes
from methods import METHODS
from methods.zeroseg.grouping import GroupingBlock, GroupingRules, SegmentationHead, hard_assignment
from methods.zeroseg.segment_tokens import SegmentTokens, of_pixels, token_affinity
from methods.zeroseg.views import embed_views, grid_boxes
from reporting.predictions import SavePredictions
from tests.conftest import QUIET
from tests.data import make_pictures

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


def test_a_student_that_starts_at_random_knows_where_its_patches_are() -> None:
    """transformers' own start leaves both position tables at zero, and frozen: the student was a bag of patches."""
    torch.manual_seed(0)
    model = MAE("embedded").eval()
    embeddings, decoder = model.model.vit.embeddings, model.model.decoder
    for table in (embeddings.position_embeddings[0], decoder.decoder_pos_embed[0]):
        assert not table[0].any()  # the class token
        assert table.shape == (65, len(table[0]))
        quarter = len(table[0]) // 4
        place = 1 + 3 * 8 + 5  # row 3, column 5
        assert table[place, 0] == pytest.approx(math.sin(5), abs=1e-6)
        assert table[place, quarter] == pytest.approx(math.cos(5), abs=1e-6)
        assert table[place, 2 * quarter] == pytest.approx(math.sin(3), abs=1e-6)
        assert table[place, quarter - 1] == pytest.approx(math.sin(5 / 10000 ** ((quarter - 1) / quarter)), abs=1e-6)
    kept = decoder.decoder_pos_embed.detach().clone()
    decoder.initialize_weights(64)  # transformers' own, which its decoder does not call
    torch.testing.assert_close(kept, decoder.decoder_pos_embed)
    images = torch.rand(2, 3, 64, 64)
    patches = images.unfold(2, 8, 8).unfold(3, 8, 8).flatten(2, 3)
    order = torch.randperm(64)
    shuffled = patches[:, :, order].unflatten(2, (8, 8)).permute(0, 1, 2, 4, 3, 5).reshape(2, 3, 64, 64)
    with torch.no_grad():
        tokens, moved = (model.encode(x).tokens[:, 1:] for x in (images, shuffled))
    assert (tokens[:, order] - moved).abs().max() > 0.1


def test_a_student_starts_as_mae_does() -> None:
    torch.manual_seed(0)
    model = MAE("embedded").model
    for layer in (*model.vit.layers, *model.decoder.decoder_layers):
        width = layer.attention.q_proj.weight.shape[1]
        bounds = {
            "attention.q_proj": math.sqrt(6 / (4 * width)),  # one matrix (3 D, D) in MAE
            "attention.o_proj": math.sqrt(6 / (2 * width)),
            "mlp.fc1": math.sqrt(6 / (5 * width)),
        }
        for name, bound in bounds.items():
            weight = layer.get_submodule(name).weight
            assert 0.98 * bound < weight.abs().max() <= bound
            assert not layer.get_submodule(name).bias.any()
    patches = model.vit.embeddings.patch_embeddings.projection.weight
    bound = math.sqrt(6 / (192 + 3 * 64))
    assert 0.98 * bound < patches.abs().max() <= bound
    for token in (model.vit.embeddings.cls_token, model.decoder.mask_token):
        assert 0.01 < token.std() < 0.03


def test_no_network_built_from_a_bare_config_is_blank() -> None:
    """A tensor of zeros makes tokens, or places, all alike."""
    for network in (MAE("embedded"), METHODS["GroupViT"]().model, METHODS["FreeSeg"](masks=None).network):
        blank = [name for name, value in network.named_parameters() if value.ndim > 1 and not value.any()]
        assert not blank


def facebook(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Under the names of facebookresearch/mae's own files, queries, keys and values in one matrix."""
    named = {
        "vit.embeddings.cls_token": "cls_token",
        "vit.embeddings.position_embeddings": "pos_embed",
        "vit.embeddings.patch_embeddings.projection.": "patch_embed.proj.",
        "vit.layernorm.": "norm.",
        "vit.layers.": "blocks.",
        "decoder.decoder_layers.": "decoder_blocks.",
        "decoder.": "",
        ".layernorm_before.": ".norm1.",
        ".layernorm_after.": ".norm2.",
        ".attention.o_proj.": ".attn.proj.",
    }
    found: dict[str, torch.Tensor] = {}
    for name, value in state.items():
        for ours, theirs in named.items():
            name = name.replace(ours, theirs)
        if ".attention.q_proj." in name:
            key = name.replace(".attention.q_proj.", ".attn.qkv.")
            found[key] = torch.cat([value, *(state_of(state, name, letter) for letter in "kv")])
        elif ".attention." not in name:
            found[name] = value
    return found


def state_of(state: dict[str, torch.Tensor], name: str, letter: str) -> torch.Tensor:
    ours = name.replace("decoder_blocks.", "decoder.decoder_layers.")
    ours = ours if ours.startswith("decoder") else ours.replace("blocks.", "vit.layers.")
    return state[ours.replace(".attention.q_proj.", f".attention.{letter}_proj.")]


def test_facebooks_own_file_is_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = MAE("embedded").eval()
    whole = facebook(first.model.state_dict())
    assert "blocks.2.attn.qkv.weight" in whole
    assert "decoder_blocks.0.attn.proj.bias" in whole
    torch.save({"model": whole}, tmp_path / "mae_visualize.pth")
    encoder = {k: v for k, v in whole.items() if not k.startswith(("decoder", "mask_token"))}
    torch.save({"model": encoder}, tmp_path / "mae_pretrain.pth")
    images = torch.rand(2, 3, 64, 64)
    latent = first.encode(images, noise(2)(64), 0.6)
    for name in ("mae_visualize", "mae_pretrain"):
        second = MAE("embedded", str(tmp_path / f"{name}.pth")).eval()
        again = second.encode(images, noise(2)(64), 0.6)
        torch.testing.assert_close(again.tokens, latent.tokens)
        assert second.model.decoder.decoder_pos_embed.any()
        same = torch.equal(second.reconstruction_loss(images, again), first.reconstruction_loss(images, latent))
        assert same == (name == "mae_visualize")
    assert "mae_pretrain.pth' holds an encoder alone" in capsys.readouterr().out
    torch.save({"model": {k: v for k, v in whole.items() if k != "norm.bias"}}, tmp_path / "part.pth")
    with pytest.raises(UserError, match=r"part\.pth' lack vit\.layernorm\.bias"):
        MAE("embedded", str(tmp_path / "part.pth"))
    with pytest.raises(UserError, match=r"mae_pretrain\.pth' lack vit\.layers\.10"):
        MAE("base", str(tmp_path / "mae_pretrain.pth"))


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


def test_views_keep_the_files_resolution(tmp_path: Path) -> None:
    """A cell of the 4 x 4 grid is cut from the picture, not from the student's small crop of it."""
    pixels = np.random.default_rng(0).integers(0, 256, (200, 260, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    options = {"size": 64, "train_batch_size": 1, "classes": "cat; dog", "num_workers": 0}
    images = DATAMODULES["UnlabeledImages"](str(tmp_path), **options)
    model = ZeroSeg(grids=[1, 4], cache=str(tmp_path / "views"))
    lightning.Trainer(max_steps=1, **QUIET).fit(model, images)
    square = torch.from_numpy(pixels[:, 30:230]).permute(2, 0, 1)[None] / 255
    cell = F.interpolate(square[:, :, 50:100, 100:150], (64, 64), mode="bicubic", antialias=True).clamp(0, 1)
    expected = model.teacher.clip.embed_image(cell, unit=False)[0]
    found = model.teacher.targets([0])[0, 1 + 4 + 2]
    assert (found - expected).abs().max() < 0.02  # half precision, uint8
    small = F.interpolate(square, (64, 64), mode="bicubic", antialias=True)[:, :, 16:32, 32:48]
    blurred = model.teacher.clip.embed_image(F.interpolate(small, (64, 64), mode="bicubic").clamp(0, 1), unit=False)[0]
    assert (found - blurred).abs().max() > 0.2


def test_the_teacher_runs_in_the_precision_of_the_training(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen: list[torch.dtype] = []
    embed_image = CLIP.embed_image

    def watched(self: CLIP, images: torch.Tensor, unit: bool = True) -> torch.Tensor:
        seen.append(self.visual.conv1(images[:1]).dtype)
        return embed_image(self, images, unit)

    monkeypatch.setattr(CLIP, "embed_image", watched)
    for precision in ("bf16-mixed", "32-true"):
        model = ZeroSeg(grids=[1, 2], cache=str(tmp_path))
        lightning.Trainer(max_steps=1, precision=precision, **QUIET).fit(model, data())
    assert seen == [torch.bfloat16, torch.float32]  # and what one precision made is not taken for the other's


def test_another_batch_than_published_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    model: Any = ZeroSeg()
    model.size, model.images_per_step = "base", 2048
    model._trainer = type("Trainer", (), {"is_global_zero": True, "accumulate_grad_batches": 2})()
    model._compare_with_the_recipe()
    assert "takes 4096 pictures a step, this run 2048; --trainer.accumulate_grad_batches 4" in capsys.readouterr().out
    model.images_per_step = 4096
    model._compare_with_the_recipe()
    assert not capsys.readouterr().out


def test_groupvit_compares_with_its_own_learnt_scale() -> None:
    model: Any = METHODS["GroupViT"]()
    model.use_vocabulary("cat; dog; sky")
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        model.model.logit_scale.fill_(math.log(7.0))
        groups = model.groups(images)
        token = groups.map((64, 64))
        expected = of_pixels(token_affinity(groups, model.text_QC, 7.0, 0), token)
        model.protocol = model.protocol.changed(gate_classes=0)
        torch.testing.assert_close(model(images), expected)
        model.model.logit_scale.fill_(math.log(700.0))
        torch.testing.assert_close(model(images), of_pixels(token_affinity(groups, model.text_QC, 100.0, 0), token))
    with pytest.raises(UserError, match="GroupViT does not follow the protocol's temperature"):
        METHODS["GroupViT"](protocol_values={"temperature": 50})


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
    assert cached.teacher.kept is not None
    assert plain.teacher.kept is None
    before = ZeroSeg(grids=[1, 2], **deviations).state_dict()
    for (name, a), b in zip(cached.state_dict().items(), plain.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, atol=2e-3, rtol=2e-2, msg=name)  # float16 views
        if name.startswith("teacher.clip"):
            assert torch.equal(a, before[name])


def test_the_encoder_is_read_interpolated_with_its_start(tmp_path: Path) -> None:
    options = {"cache": str(tmp_path / "views"), "encoder_init": "teacher"}
    before, trained = ZeroSeg(**options).state_dict(), fit(tmp_path, **options).state_dict()
    mixed = fit(tmp_path, **options, interpolation=0.25).state_dict()
    moved = 0
    for name, weight in trained.items():
        encoder = name.startswith(("student.model.vit.", "student.ln_pre."))
        expected = before[name] + 0.25 * (weight - before[name]) if encoder else weight
        torch.testing.assert_close(mixed[name], expected, atol=1e-6, rtol=1e-5, msg=name)
        moved += encoder and not torch.equal(mixed[name], weight)
    assert moved > 50  # attention, MLPs and norms of three layers


def test_wrong_settings_are_refused(tmp_path: Path) -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({"depths": [2, 1]}, "must be one more than the group_tokens' 2 stages"),
        ({"grids": [2, 3]}, "the first must be 1"),
        ({"segment_projection": "none"}, "segment tokens are 192 wide, the teacher's embedding 128"),
        ({"feature_norm": "unit"}, "unknown feature_norm 'unit'"),
        ({"encoder_init": "mae", "mae_weights": str(tmp_path)}, "MAE weights .* cannot be loaded"),
        ({"interpolation": 0.5}, "interpolation 0.5 mixes .* set encoder_init teacher or mae"),
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
    with pytest.raises(UserError, match=r"are of several sizes; nothing can be kept\. Set --data\.crop centre"):
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
    affinity = token_affinity(groups, text, 5.0, gate_classes)
    found = of_pixels(affinity, groups.map((16, 20)))
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


def groupvits_label_map(model: Any, image: torch.Tensor, threshold: float) -> torch.Tensor:
    """GroupViT's evaluation of one picture as a plain loop: background is decided in each window, then windows are averaged."""
    windows = model.protocol.windows
    resized = resize_image(image, windows)
    size = (resized.shape[1], resized.shape[2])
    total, visits = torch.zeros(len(model.words) + 1, *size), torch.zeros(size)
    for top, left, bottom, right in window_boxes(*size, windows):
        groups = model.groups(resized[None, :, top:bottom, left:right])
        affinity = token_affinity(groups, model.text_QC, model.temperature, model.protocol.decision.gate_classes)[0]
        token = F.interpolate(groups.assignment, (bottom - top, right - left), mode="bilinear").argmax(1)[0]
        limit = min(threshold, float(affinity.max()))  # over all groups, whether a pixel is of them or not
        of_pixel = affinity[token].permute(2, 0, 1)
        background = (of_pixel.amax(0) < limit).float()
        total[:, top:bottom, left:right] += torch.cat([background[None], of_pixel])
        visits[top:bottom, left:right] += 1
    channels = F.interpolate((total / visits)[None], image.shape[1:], mode="bilinear")[0]
    return torch.cat([torch.tensor([0]), model.class_of_word])[channels.argmax(0)]


@pytest.mark.parametrize("threshold", [0.02, 0.3])
@torch.no_grad()
def test_background_is_decided_in_every_window(threshold: float) -> None:
    torch.manual_seed(1)
    model: Any = METHODS["GroupViT"](protocol="groupvit", protocol_values={"short_side": 64, "crop": 64, "stride": 32})
    model.protocol_values["background_value"] = threshold
    for weight in model.model.vision_model.parameters():  # as it starts, one group takes every pixel
        weight.add_(0.1 * torch.randn_like(weight)) if weight.ndim > 1 else None
    model.use_vocabulary(Vocabulary.load("voc21"))
    pictures = DATAMODULES["Shapes"](pictures=4).benchmark("test")
    shares = []
    for i in range(4):
        image = pictures[i]["image"].float() / 255
        found = model.segment(image).labels
        expected = groupvits_label_map(model, image, threshold)
        assert (found != expected).float().mean() < 0.001  # ties of the argmax
        shares.append(float((found == 0).float().mean()))
    if threshold == 0.3:
        assert sum(0.01 < share < 0.99 for share in shares) >= 2
    else:
        assert max(shares) < 0.01


def test_a_group_without_a_pixel_still_lowers_no_threshold() -> None:
    """The best group has no pixel: the limit is its probability, and every pixel is background."""
    probabilities = torch.full((1, 2, 4, 4), 0.3)
    assert (with_background(probabilities, 0.9, torch.tensor([0.8]))[:, 2] == 1).all()
    assert (with_background(probabilities, 0.9, None)[:, 2] == 0).all()  # their own best survives


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


def test_images_that_do_not_fit_the_decoder_are_refused_before_their_views(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_pictures(tmp_path / "in")
    data = ["--data=UnlabeledImages", f"--data.images={tmp_path / 'in'}", "--data.size=96", "--data.train_batch_size=2"]
    options = ["--data.num_workers=0", f"--trainer.default_root_dir={tmp_path}", f"--model.cache={tmp_path / 'views'}"]
    model = ["--model=ZeroSeg", "--trainer.accelerator=cpu", "--trainer.max_steps=1"]
    assert cli.main(["fit", *model, *data, *options, "--data.classes=cat; dog"]) == 2
    assert "images are 96 x 96, but ZeroSeg's autoencoder of size 'embedded' is for 64 x 64. Set --data.size 64" in (
        capsys.readouterr().err
    )
    assert not (tmp_path / "views").exists()
