"""Word maps, IFSeg and the readings of OFA; the equations are in ``test_parity_ofa.py``."""

import copy
import os
from pathlib import Path
from typing import Any
from unittest import mock

import lightning
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

import cli
from backbones.ofa import convert
from backbones.ofa.loading import FOLDER, load_ofa, load_tokenizer
from commands.lightning import build
from commands.trained import build_trained
from common.errors import UserError
from datamodules import DATAMODULES
from evaluation import Protocol, Vocabulary
from methods import METHODS
from methods.ifseg.word_maps import draw_maps
from methods.map_loss import map_cross_entropy
from reporting.checkpoints import PeriodicCheckpoint
from tests.conftest import QUIET, ROOT

WEIGHTS = FOLDER / "embedded_ofa.safetensors"


def maps(epoch: int = 0, **options: Any) -> list[Any]:
    loader = DATAMODULES["WordMaps"]("cat; dog; sky", **{"maps": 24, "train_batch_size": 8, "num_workers": 0} | options)
    found = loader.train_dataloader()
    found.sampler.set_epoch(epoch)
    return list(found)


def test_maps_follow_from_seed_epoch_and_index() -> None:
    def same(a: list[Any], b: list[Any]) -> bool:
        return all(torch.equal(x[key], y[key]) for x, y in zip(a, b, strict=True) for key in x)

    assert same(maps(), maps(num_workers=2))
    assert not same(maps(), maps(1))
    assert not same(maps(), maps(seed=1))
    assert set(maps()[0]) == {"numbers", "size"}  # no picture and no mask


def test_sizes_and_words_are_uniform() -> None:
    batches = maps(maps=4000, train_batch_size=4000)
    sizes = batches[0]["size"]
    for axis in (0, 1):
        counts = np.bincount(sizes[:, axis].numpy(), minlength=33)[1:]
        assert counts.sum() == 4000
        assert counts.min() > 80
        assert counts.max() < 175
    words = draw_maps(batches[0], 3, 32)
    share = np.bincount(words.flatten().numpy()) / words.numel()
    np.testing.assert_allclose(share, 1 / 3, atol=0.01)


def test_a_map_keeps_its_cells_at_every_size() -> None:
    batch = {"numbers": torch.arange(36).reshape(1, 6, 6), "size": torch.tensor([[2, 3]])}
    drawn = draw_maps(batch, 100, 6)
    assert drawn[0, ::3, ::2].tolist() == [[0, 1, 2], [6, 7, 8]]
    assert torch.equal(drawn.repeat_interleave(2, 1).repeat_interleave(2, 2), draw_maps(batch, 100, 12))


@pytest.fixture(scope="module")
def ifseg() -> Any:
    model = METHODS["IFSeg"]()
    model.use_vocabulary(Vocabulary.load("shapes12"))
    return model


def test_frozen_parts_stay_and_the_rest_learns(tmp_path: Path) -> None:
    model: Any = METHODS["IFSeg"](learning_rate=1e-3)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    data = DATAMODULES["WordMaps"](
        scored_on=DATAMODULES["Shapes"]("shapes12", pictures=2, num_workers=0), largest=8, maps=64, num_workers=0
    )
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    trainer = lightning.Trainer(default_root_dir=tmp_path, accelerator="cpu", max_steps=2, limit_val_batches=0, **quiet)
    trainer.fit(model, data)
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert not any(part in name for name in moved for part in ("embed_images", "image_proj", "embed_tokens"))
    assert {"ofa.decoder.embed_seg_positions.weight", "ofa.encoder.layers.0.fc1.weight"} <= moved


def test_row_i_sees_no_cell_at_or_after_i(ifseg: Any) -> None:
    """The surrogate input is causal: with cross-attention silenced, a row knows the encoder's cells before it only."""
    ofa = copy.deepcopy(ifseg.ofa).eval()
    with torch.no_grad():
        for layer in ofa.decoder.layers:
            layer.cross_attn_ln.weight.zero_()
            layer.cross_attn_ln.bias.zero_()
        encoded = ofa.encode_map(torch.randn(1, 8, 8, 128), ifseg.source)
        before = ofa.decode_map(encoded)
        encoded.states[:, 20:40] += 1
        difference = (before - ofa.decode_map(encoded)).abs().amax((0, 2))
    assert before.shape == (1, 64, 128)
    assert (difference[:21] == 0).all()
    assert (difference[21:41] > 0).all()


def test_scores_have_the_grid_of_any_size(ifseg: Any) -> None:
    with torch.no_grad():
        for height, width in ((64, 64), (64, 96), (50, 70), (8, 8), (8, 200), (112, 8), (8, 112)):
            scores = ifseg(torch.rand(1, 3, height, width))
            assert scores.shape == (1, 12, -(-height // 8), -(-width // 8))
            assert scores.isfinite().all()


@pytest.mark.parametrize("learning", [True, False])
@pytest.mark.parametrize(("height", "width"), [(5, 7), (3, 11), (8, 8), (9, 12), (8, 11), (11, 8)])
def test_relative_positions_of_a_picture_are_those_of_the_trained_grid_resized(
    height: int, width: int, learning: bool, ifseg: Any
) -> None:
    """The embedded OFA is trained on maps of 8 x 8 cells; smaller grids are resized too, as larger ones are."""
    encoder, side, grid = ifseg.ofa.encoder, ifseg.ofa.config.image_side, ifseg.ofa.config.grid
    up_YG, up_XG = linear(grid, height), linear(grid, width)
    offset = torch.arange(grid)[:, None] - torch.arange(grid) + side - 1
    bucket_GGGG = offset[:, None, :, None] * (2 * side - 1) + offset[None, :, None, :]  # query's row, column, key's
    rows = torch.zeros(height * width + 6, ifseg.ofa.config.width)  # without absolute positions
    with torch.no_grad():
        encoder = copy.deepcopy(encoder)
        for part in (encoder.pos_q_linear, encoder.pos_k_linear):
            part.bias.zero_()
    with torch.set_grad_enabled(learning):
        biases = encoder.biases(rows, (height, width), torch.zeros(1, len(rows), dtype=torch.bool))
        for table, (bias,) in zip(encoder.image_rel_pos_table_list, biases, strict=True):
            trained = table.weight[bucket_GGGG]
            expected = torch.einsum("ya,xb,vc,wd,abcdh->hyxvw", up_YG, up_XG, up_YG, up_XG, trained)
            found = bias[:, : height * width, : height * width]
            torch.testing.assert_close(found, expected.flatten(1, 2).flatten(2), atol=1e-6, rtol=1e-5)


def linear(coarse: int, fine: int) -> torch.Tensor:
    """(fine, coarse) weights of linear interpolation between the centres of cells."""
    centre = ((torch.arange(fine) + 0.5) * coarse / fine - 0.5).clamp(0, coarse - 1)
    return (1 - (centre[:, None] - torch.arange(coarse)).abs()).clamp(min=0)


@pytest.fixture
def picture() -> torch.Tensor:
    image: torch.Tensor = DATAMODULES["Shapes"](pictures=1).benchmark("test")[0]["image"]
    return image


@pytest.mark.parametrize("refine", ["none", "neighbours"])
def test_the_trunk_sees_a_picture_once_and_as_it_is(refine: str, picture: torch.Tensor, ifseg: Any) -> None:
    picture = picture[:, :50, :70]
    model = copy.deepcopy(ifseg)
    model.use_vocabulary(Vocabulary.load("shapes12"), Protocol.preset("ifseg", short_side=50, refine=refine))
    seen: list[torch.Tensor] = []
    model.ofa.encoder.embed_images.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    model.segment(picture)
    assert len(seen) == 1
    torch.testing.assert_close(seen[0][0], picture / 255 * 2 - 1)


@pytest.mark.parametrize("method", ["IFSeg", "TrainingFree"])
def test_a_cell_is_its_own_neighbour_in_bfloat16(method: str, picture: torch.Tensor) -> None:
    """Cosines near 1 are told apart; rounded to eight bits, a tenth of the cells are not their own nearest."""
    model: Any = METHODS[method]()
    one = Protocol.preset("shapes", neighbours=1, neighbour_steps=1)
    with torch.autocast("cpu", torch.bfloat16):
        model.use_vocabulary(Vocabulary.load("shapes12"), one)
        plain = model.score_images([picture])[0].scores.float()
        model.use_vocabulary(Vocabulary.load("shapes12"), one.changed(refine="neighbours"))
        smoothed = model.score_images([picture])[0].scores
    temperature = 40 if model.scores == "cosine" else 1
    assert torch.equal((temperature * plain).softmax(1), smoothed)


def test_class_embeddings_are_means_of_pieces(ifseg: Any) -> None:
    tokenizer, words = load_tokenizer(None), ifseg.ofa.words
    ids = tokenizer.encode("red striped square")
    assert len(ids) == 3
    assert tokenizer.decode(ids) == "red striped square"
    torch.testing.assert_close(ifseg.class_embeddings[3], words[ids].mean(0))
    assert ifseg.vocabulary.names[3] == "red striped square"
    assert ifseg.source[0, 0] == 0
    assert ifseg.source[0, -1] == 2


def test_names_that_ofa_cannot_read_are_refused(ifseg: Any) -> None:
    ifseg = copy.deepcopy(ifseg)
    with pytest.raises(UserError, match="the class 'aeroplane' has no piece that OFA knows"):
        ifseg.use_vocabulary(Vocabulary.parse("red plain disc; aeroplane"))
    with pytest.raises(UserError, match=r"make a text of .* pieces; OFA reads 64\. Name fewer"):
        ifseg.use_vocabulary(Vocabulary.parse("; ".join("red " * (k + 1) + "disc" for k in range(11))))


def test_too_little_to_train_on_is_refused() -> None:
    with pytest.raises(UserError, match="'cat' is the only class"):
        DATAMODULES["WordMaps"]("cat")
    with pytest.raises(UserError, match="no class names to train on"):
        DATAMODULES["WordMaps"]()
    with pytest.raises(UserError, match="duplicate classes"):
        DATAMODULES["WordMaps"]("cat; dog; cat")
    with pytest.raises(UserError, match="word maps have no pictures to score on"):
        DATAMODULES["WordMaps"]("cat; dog").test_dataloader()


def test_weights_of_another_kind_are_refused(tmp_path: Path) -> None:
    weights = load_file(WEIGHTS)
    cases: dict[str, tuple[dict[str, torch.Tensor], str]] = {
        "chinese": ({**weights, "encoder.embed_tokens.weight": torch.zeros(50, 128)}, "has 50 words, .* Chinese"),
        "size": ({**weights, "encoder.layer_norm.weight": torch.zeros(3)}, r"'encoder\.layer_norm\.weight' is \(3,\)"),
        "missing": ({k: v for k, v in weights.items() if "fc1" not in k}, "lacks 'encoder.layers.0.fc1.weight' and 9 other"),
        "none": ({"x": torch.zeros(1)}, "holds no OFA"),
    }
    for name, (content, message) in cases.items():
        save_file(content, tmp_path / f"{name}.safetensors")
        with pytest.raises(UserError, match=message):
            load_ofa("embedded", str(tmp_path / f"{name}.safetensors"))
    torch.save({"model": weights, "cfg": Path("x")}, tmp_path / "pickled.pt")
    with pytest.raises(UserError, match="holds pickled objects"):
        load_ofa("embedded", str(tmp_path / "pickled.pt"))
    with pytest.raises(UserError, match="do not exist"):
        load_ofa("embedded", "nowhere.pt")
    with pytest.raises(UserError, match="needs a revision"):
        load_ofa("base", "hf-hub:OFA-Sys/ofa-base")
    with pytest.raises(UserError, match="hf-hub:OFA-Sys/ofa-base' cannot be downloaded"):
        load_ofa("embedded", "hf-hub:OFA-Sys/ofa-base", revision="0" * 40)
    with pytest.raises(UserError, match=r"unknown OFA size 'bas'\. Did you mean 'base'"):
        load_ofa("bas", None)


TABLES = ("embed_seg_positions", "seg_pos_ln", "seg_rel_pos_table_list")  # what only IFSeg adds


def start(seed: int, *options: str) -> dict[str, torch.Tensor]:
    """The weights that a run of the command line with this seed starts from."""
    model: Any = build(["--config", "configs/ifseg/shapes.yaml", f"--seed_everything={seed}", *options]).model
    weights: dict[str, torch.Tensor] = model.ofa.state_dict()
    return weights


def differing(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> set[str]:
    return {name for name, value in a.items() if not torch.equal(value, b[name])}


def test_positions_that_weights_do_not_hold_are_drawn_per_seed(tmp_path: Path) -> None:
    """Published weights lack them, the embedded ones hold them."""
    weights = load_file(WEIGHTS)
    save_file({k: v for k, v in weights.items() if not any(t in k for t in TABLES)}, tmp_path / "published.safetensors")
    published = f"--model.weights={tmp_path / 'published.safetensors'}"
    tables = {name for name in start(0) if any(t in name for t in TABLES) and "seg_pos_ln" not in name}
    assert len(tables) == 3  # positions, and a table for each of two layers
    assert differing(start(0), start(1)) == set()
    assert differing(start(0, published), start(1, published)) == tables
    assert differing(start(0, published), start(0, published)) == set()
    redraw = "--model.redraw_map_positions=true"
    assert differing(start(0, redraw), start(0, published)) == set()
    assert differing(start(0, redraw), start(0)) == tables
    for name in tables:
        drawn = start(1, redraw)[name]
        assert drawn.std().item() == pytest.approx(0.02, rel=0.1)


class Evil:
    """Runs a command when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.path}",)


def test_converting_a_fairseq_file_runs_nothing_of_it(tmp_path: Path) -> None:
    weights = {name: value for name, value in load_file(WEIGHTS).items() if not name.startswith("tag_head")}
    torch.save({"model": weights, "cfg": Path("x"), "more": [Evil(tmp_path / "ran")]}, tmp_path / "ofa.pt")
    assert convert.main([str(tmp_path / "ofa.pt"), str(tmp_path / "ofa.safetensors")]) == 0
    assert not (tmp_path / "ran").exists()
    assert all(torch.equal(value, weights[name]) for name, value in load_file(tmp_path / "ofa.safetensors").items())
    load_ofa("embedded", str(tmp_path / "ofa.safetensors"))
    assert convert.main([str(tmp_path / "none.pt"), "x.safetensors"]) == 2
    (tmp_path / "text.pt").write_text("no checkpoint")
    assert convert.main([str(tmp_path / "text.pt"), "x.safetensors"]) == 2


def test_fairseq_and_hugging_face_spellings_load_alike(tmp_path: Path) -> None:
    weights = load_file(WEIGHTS)

    def hugging_face(name: str) -> str:
        for ours, theirs in (
            ("cross_attn_ln", "cross_attn_mid_layer_norm"),
            ("encoder_attn_layer_norm", "cross_attn_layer_norm"),
            ("encoder_attn.", "cross_attn."),
            ("self_attn_ln", "self_attn_mid_layer_norm"),
            (".attn_ln", ".self_attn_mid_layer_norm"),
            ("ffn_layernorm", "ffn_layer_norm"),
        ):
            name = name.replace(ours, theirs)
        return name

    torch.save({"model": weights}, tmp_path / "fairseq.pt")
    torch.save({hugging_face(name): value for name, value in weights.items()}, tmp_path / "hugging_face.bin")
    ours = load_ofa("embedded", str(WEIGHTS)).state_dict()
    for file in ("fairseq.pt", "hugging_face.bin"):
        loaded = load_ofa("embedded", str(tmp_path / file)).state_dict()
        assert all(torch.equal(loaded[name], value) for name, value in ours.items() if "seg_" not in name)


def test_the_command_line_trains_and_scores(tmp_path: Path) -> None:
    config = [
        "--config",
        "configs/ifseg/shapes.yaml",
        f"--trainer.default_root_dir={tmp_path}",
        "--trainer.enable_progress_bar=false",
    ]
    small = [
        "--trainer.enable_progress_bar=false",
        "--data.scored_on.pictures=2",
        "--data.scored_on.num_workers=0",
        "--data.num_workers=0",
    ]
    assert cli.main(["fit", *config, *small, "--trainer.max_steps=2", "--model.interpolation=0.5"]) == 0
    checkpoint = str(next(tmp_path.rglob("*.ckpt")))
    assert build_trained(config, checkpoint).model.before.share == 0.5
    assert cli.main(["test", *config, *small, "--ckpt_path", checkpoint]) == 0


def test_it_is_documented_where_it_was_trained() -> None:
    assert (ROOT / "configs" / "pretrain" / "embedded_ofa.yaml").is_file()
    assert WEIGHTS.stat().st_size < 10_000_000


@given(words=st.integers(2, 9), coarse=st.integers(1, 6), factor=st.integers(1, 5), strip=st.integers(1, 3000))
def test_the_map_loss_is_the_plain_one(words: int, coarse: int, factor: int, strip: int) -> None:
    logits = torch.randn(2, words, coarse, coarse, requires_grad=True)
    target = torch.randint(0, words, (2, coarse * factor, coarse * factor))
    with mock.patch("methods.map_loss.STRIP", strip):
        ours = map_cross_entropy(logits, target)
    (ours_gradient,) = torch.autograd.grad(3 * ours, logits)
    plain = F.cross_entropy(F.interpolate(logits, target.shape[1:], mode="bilinear", align_corners=False), target)
    (plain_gradient,) = torch.autograd.grad(3 * plain, logits)
    torch.testing.assert_close(ours, plain, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours_gradient, plain_gradient, atol=1e-6, rtol=1e-4)


def test_neighbours_are_averaged_by_any_method_with_features() -> None:
    picture = [DATAMODULES["Shapes"](pictures=1).benchmark("test")[0]["image"]]
    model: Any = METHODS["TrainingFree"](
        "sclip", protocol_values={"refine": "neighbours", "neighbour_steps": 1, "neighbours": 1}
    )
    model.use_vocabulary(Vocabulary.load("shapes12"))
    itself = model.segment(picture)[0].labels
    model.protocol = model.protocol.changed(refine="none")
    assert (itself != model.segment(picture)[0].labels).float().mean() < 0.1  # probabilities, not logits, are upsampled
    model.protocol = model.protocol.changed(refine="neighbours", neighbours=60, neighbour_steps=25)
    assert len(model.segment(picture)[0].labels.unique()) < len(itself.unique())
    with pytest.raises(UserError, match="LinearProbe has no features to find a patch's neighbours by"):
        METHODS["LinearProbe"](protocol_values={"refine": "neighbours"})
    averaged = model.protocol.changed(crop=None, stride=None, neighbours=4, neighbour_steps=1)
    model.use_vocabulary(Vocabulary.load("shapes12"), averaged)
    (plain,) = model.segment(picture, with_score=True)
    threshold = averaged.changed(background="threshold", background_value=0.9)
    model.use_vocabulary(Vocabulary.load("shapes13"), threshold)
    (found,) = model.segment(picture, with_score=True)
    assert plain.score is not None
    assert 0.05 < (found.labels == 0).float().mean() < 0.95
    differ = (found.labels == 0) != (plain.score < 0.9)  # averaged probabilities are compared with it, cell by cell
    assert differ.float().mean() < 0.1


def small_run(
    folder: Path, model: Any, pictures: bool = False, resume: Path | None = None, **options: Any
) -> lightning.Trainer:
    scored_on = DATAMODULES["Shapes"]("shapes12", pictures=2, num_workers=0)
    seen = DATAMODULES["Shapes"]("shapes12", train="pictures", train_pictures=40, train_batch_size=2, num_workers=0)
    data = DATAMODULES["WordMaps"](
        scored_on=scored_on, largest=8, maps=64, num_workers=0, train_batch_size=4, pictures=seen if pictures else None
    )
    trainer = lightning.Trainer(**(QUIET | {"default_root_dir": folder, "limit_val_batches": None} | options))
    trainer.fit(model, data, ckpt_path=resume, weights_only=True)
    return trainer


def interpolated_run(folder: Path, share: float, resume: Path | None = None, **options: Any) -> dict[str, torch.Tensor]:
    """The weights in memory after three large steps."""
    torch.manual_seed(0)
    model: Any = METHODS["IFSeg"](interpolation=share, learning_rate=1e-2)
    saves = {"enable_checkpointing": True, "callbacks": [PeriodicCheckpoint(1, -1, str(folder))]}
    small_run(folder, model, resume=resume, max_steps=3, limit_val_batches=0, accumulate_grad_batches=2, **saves)
    weights: dict[str, torch.Tensor] = model.state_dict()
    return weights


def assert_interpolated(found: dict[str, torch.Tensor], trained: dict[str, torch.Tensor], share: float) -> None:
    moved = 0
    for name, start in METHODS["IFSeg"]().state_dict().items():
        kept = any(table in name for table in TABLES) or not start.is_floating_point()
        expected = trained[name] if kept else torch.lerp(start, trained[name], share)
        torch.testing.assert_close(found[name], expected, atol=1e-6, rtol=1e-5)
        moved += not torch.equal(found[name], trained[name])
    assert moved > 100


def test_trained_weights_are_read_interpolated_with_the_pretrained_ones(tmp_path: Path) -> None:
    plain, mixed = (interpolated_run(tmp_path / str(share), share) for share in (1.0, 0.8))
    assert_interpolated(mixed, plain, 0.8)
    path = tmp_path / "0.8" / "step=3.ckpt"  # holds the trained ones: a run of test may ask for any share
    for share in (0.8, 0.5):
        config = ["--config", "configs/ifseg/shapes.yaml", f"--model.interpolation={share}"]
        assert_interpolated(build_trained(config, str(path)).model.state_dict(), plain, share)
    again = interpolated_run(tmp_path / "again", 0.8, tmp_path / "0.8" / "step=1.ckpt")
    assert all(torch.equal(again[name], weight) for name, weight in mixed.items())


def test_the_rate_warms_up(tmp_path: Path) -> None:
    for share, factors in ((0.0, [1, 0.75, 0.25]), (0.7, [0.5, 0.75, 0.25])):  # a line to 1 times half a cosine
        rates: list[float] = []
        model: Any = METHODS["IFSeg"](learning_rate=1e-2, warmup_share=share)
        model.on_before_zero_grad = lambda optimizer, rates=rates: rates.append(optimizer.param_groups[0]["lr"])
        small_run(tmp_path, model, max_steps=3, limit_val_batches=0)
        assert rates == pytest.approx([1e-2 * factor for factor in factors])


def test_self_training_goes_on_with_pictures(tmp_path: Path) -> None:
    steps: list[str] = []
    model: Any = METHODS["IFSeg"](self_training_from=2)
    assert model.sees.value == "unlabelled pictures"
    for name in ("_image_free_loss", "_self_training_loss"):
        method = getattr(model, name)
        setattr(model, name, lambda batch, name=name, method=method: steps.append(name) or method(batch))
    small_run(tmp_path, model, pictures=True, max_steps=4, limit_val_batches=0)
    assert steps == ["_image_free_loss"] * 2 + ["_self_training_loss"] * 2
    untrained, labelling, trained = METHODS["IFSeg"]().ofa, model.labeller, model.ofa
    assert not torch.equal(labelling.encoder.layer_norm.weight, untrained.encoder.layer_norm.weight)
    assert not torch.equal(labelling.encoder.layer_norm.weight, trained.encoder.layer_norm.weight)
    assert METHODS["IFSeg"]().sees.value == "class names"


def test_its_own_labels_are_its_smoothed_label_maps(ifseg: Any) -> None:
    image = DATAMODULES["Shapes"](pictures=1).benchmark("test")[0]["image"][None, :, :64, :64] / 255
    model = copy.deepcopy(ifseg).train()
    model.labeller = copy.deepcopy(model.ofa)
    features = model.patch_features(image)
    labels = model.own_labels(features)
    assert model.training
    assert model.labeller.training
    model.protocol = model.protocol.changed(refine="neighbours", short_side=64)
    assert torch.equal(labels[0], model.segment([image[0]])[0].labels)


def test_selection_keeps_the_best_validation_and_is_an_oracle(tmp_path: Path) -> None:
    model: Any = METHODS["IFSeg"](learning_rate=5e-2, select_on_labels=True)  # too large: the last is not the best
    assert model.sees.value.endswith("(oracle)")
    seen: list[tuple[float, torch.Tensor]] = []
    end = model.on_validation_epoch_end

    def remember() -> None:
        end()
        seen.append((float(model.trainer.callback_metrics["val/miou"]), model.ofa.encoder.layer_norm.weight.clone()))

    model.on_validation_epoch_end = remember
    saves = {"enable_checkpointing": True, "callbacks": [PeriodicCheckpoint(1, -1, str(tmp_path))]}
    small_run(tmp_path, model, max_steps=5, val_check_interval=1, num_sanity_val_steps=0, **saves)
    assert len(seen) == 5
    best = max(seen, key=lambda pair: pair[0])
    assert not torch.equal(best[1], seen[-1][1])
    assert torch.equal(model.ofa.encoder.layer_norm.weight, best[1])
    last = torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"]
    assert torch.equal(last["ofa.encoder.layer_norm.weight"], best[1])
    after_it = tmp_path / "step=4.ckpt"
    assert [miou for miou, _ in seen].index(best[0]) < 3, "the best comes before the checkpoint that is gone on from"
    on: Any = METHODS["IFSeg"](learning_rate=5e-2, select_on_labels=True)
    small_run(tmp_path / "on", on, resume=after_it, max_steps=5, val_check_interval=1, num_sanity_val_steps=0)
    assert torch.equal(on.ofa.encoder.layer_norm.weight, best[1])
    with pytest.raises(UserError, match=r"with trainer.limit_val_batches 0 there is none\. Set it to 1\.0"):
        small_run(tmp_path / "none", METHODS["IFSeg"](select_on_labels=True), max_steps=1, limit_val_batches=0)


def test_the_tagging_head_is_read_by_name() -> None:
    model: Any = METHODS["OFAZeroShot"]("tags")
    picture = [DATAMODULES["Shapes"](pictures=1).benchmark("test")[0]]
    model.use_vocabulary(Vocabulary.load("shapes12"))
    labels = model.segment([picture[0]["image"]])[0].labels
    model.use_vocabulary(Vocabulary.parse("; ".join(reversed(Vocabulary.load("shapes12").names))))
    assert torch.equal(11 - labels, model.segment([picture[0]["image"]])[0].labels)
    with pytest.raises(UserError, match="tagging head does not know 'red disc'"):
        model.use_vocabulary(Vocabulary.parse("red disc; grass"))
    with pytest.raises(UserError, match="hold no tagging head"):
        METHODS["OFAZeroShot"]("tags", weights=None)
