from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from backbones.attention import RULES
from backbones.clip import CLIP, resize_positions
from common.errors import UserError
from common.weights import state_hash
from methods.training_free import feature_surgery

TEMPLATES = ["a photo of a {}.", "{}"]


@pytest.fixture(scope="module")
def clip() -> CLIP:
    torch.manual_seed(0)
    return CLIP("tiny_clip", None)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("size", [(64, 64), (64, 96), (72, 40), (50, 61), (8, 15)])
def test_dense_tokens_of_any_size_are_unit_vectors(clip: CLIP, rule: str, size: tuple[int, int]) -> None:
    dense = clip.dense(torch.rand(2, 3, *size), rule)
    grid = tuple(side // clip.stride for side in size)
    assert dense.shape == (2, 128, *grid)
    torch.testing.assert_close(dense.norm(dim=1), torch.ones(2, *grid))


@pytest.mark.parametrize("rule", RULES)
def test_a_picture_is_read_alike_alone_and_in_a_batch(clip: CLIP, rule: str) -> None:
    images = torch.rand(3, 3, 64, 80)
    together = clip.dense(images, rule)
    alone = torch.cat([clip.dense(image[None], rule) for image in images])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)


def test_dense_clip_is_open_clips_own_forward(clip: CLIP) -> None:
    """At the native size the tokens are those of the unchanged tower, and the image embedding too."""
    images = torch.rand(2, 3, 64, 64)
    normal = (images - clip.mean) / clip.std
    tokens = clip.visual.forward_intermediates(normal, indices=1, normalize_intermediates=True)["image_intermediates"][0]
    expected = torch.nn.functional.normalize(torch.einsum("bdhw,dc->bchw", tokens, clip.visual.proj), dim=1)
    torch.testing.assert_close(clip.dense(images, "clip"), expected, atol=1e-5, rtol=1e-4)
    image = torch.nn.functional.normalize(clip.clip.encode_image(normal), dim=-1)
    pooled, _ = clip.tokens(images, "sclip", pooled=True)
    torch.testing.assert_close(pooled, image, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(clip.embed_image(images), image, atol=1e-5, rtol=1e-4)


def test_positions_are_always_resized_from_the_original(clip: CLIP) -> None:
    """The published CLIP Surgery overwrites its table: there, sizes seen before change the result."""
    small, large = torch.rand(1, 3, 64, 64), torch.rand(1, 3, 128, 96)
    before = clip.dense(small, "surgery")
    clip.dense(large, "surgery")
    assert torch.equal(clip.dense(small, "surgery"), before)


@pytest.mark.parametrize("how", ["scaled_bicubic", "bicubic", "antialias", "bilinear"])
def test_position_resize(how: str) -> None:
    table = torch.randn(1 + 14 * 14, 8)
    assert resize_positions(table, (14, 14), (14, 14), how) is table
    assert resize_positions(table, (14, 14), (21, 28), how).shape == (1 + 21 * 28, 8)
    constant = torch.ones(1 + 49, 3)
    torch.testing.assert_close(resize_positions(constant, (7, 7), (10, 12), how), torch.ones(121, 3))


def test_the_scale_factor_is_material() -> None:
    table = torch.randn(1 + 14 * 14, 8)
    by_factor, by_size = (resize_positions(table, (14, 14), (21, 28), how) for how in ("scaled_bicubic", "bicubic"))
    assert (by_factor - by_size).abs().max() > 0.1


def test_words_are_encoded_once(clip: CLIP, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ZEROLABEL_CACHE", str(tmp_path))
    first = clip.embed_text(["cat", "dog"], TEMPLATES)
    torch.testing.assert_close(first.norm(dim=-1), torch.ones(2))
    monkeypatch.setattr(clip.clip, "encode_text", None)
    assert torch.equal(clip.embed_text(["cat", "dog"], TEMPLATES), first)
    for changed in (
        (["cat", "cow"], TEMPLATES, "unit"),
        (["cat", "dog"], TEMPLATES[:1], "unit"),
        (["cat", "dog"], TEMPLATES, "raw"),
    ):
        with pytest.raises(TypeError):  # not in the cache: it would be encoded
            clip.embed_text(*changed)


def test_other_weights_have_other_text(clip: CLIP) -> None:
    torch.manual_seed(1)
    other = CLIP("tiny_clip", None)
    assert other.text_weights_hash() != clip.text_weights_hash()
    assert not torch.equal(other.embed_text(["cat"], TEMPLATES), clip.embed_text(["cat"], TEMPLATES))


def test_ensembles(clip: CLIP) -> None:
    prompts = [template.format("cat") for template in TEMPLATES]
    raw = clip.clip.encode_text(clip.tokenizer(prompts))
    unit = torch.nn.functional.normalize(raw, dim=-1)
    for name, features in (("raw", raw), ("unit", unit)):
        expected = torch.nn.functional.normalize(features.mean(0), dim=0)
        torch.testing.assert_close(clip.embed_text(["cat"], TEMPLATES, name)[0], expected)


def test_feature_surgery_equals_the_published_form() -> None:
    """The reference multiplies features and texts out to (pixels x classes x channels) before it subtracts."""
    patches = torch.nn.functional.normalize(torch.randn(1, 6, 4, 5), dim=1)
    text = torch.nn.functional.normalize(torch.randn(3, 6), dim=1)
    image = torch.nn.functional.normalize(torch.randn(1, 6), dim=1)
    weights = torch.softmax(2 * image @ text.T, -1)
    weights = weights / weights.mean(-1, keepdim=True)
    products = torch.einsum("bchw,kc->bkchw", patches, text) * weights[0, :, None, None, None]
    expected = (products - products.mean(1, keepdim=True)).sum(2)
    got = feature_surgery(torch.einsum("bchw,kc->bkhw", patches, text), image @ text.T)
    torch.testing.assert_close(got, expected)


def test_local_files_and_their_faults(clip: CLIP, tmp_path: Path) -> None:
    save_file({k: v.contiguous() for k, v in clip.clip.state_dict().items()}, tmp_path / "same.safetensors")
    torch.save(clip.clip.state_dict(), tmp_path / "same.pt")
    for name in ("same.safetensors", "same.pt"):
        assert state_hash(CLIP("tiny_clip", str(tmp_path / name)).clip.state_dict()) == state_hash(clip.clip.state_dict())
    other = {k: v for k, v in load_file(tmp_path / "same.safetensors").items() if k != "visual.proj"}
    save_file(other, tmp_path / "other.safetensors")
    (tmp_path / "text.pt").write_text("no weights")
    torch.save({"path": tmp_path}, tmp_path / "code.pt")
    for pretrained, message in (
        (str(tmp_path / "other.safetensors"), "cannot load weights .*other.safetensors' into CLIP 'tiny_clip'"),
        (str(tmp_path / "absent.pt"), "absent.pt' does not exist"),
        (str(tmp_path / "text.pt"), "checkpoint '.*text.pt' cannot be read: it is no whole torch file"),
        (str(tmp_path / "code.pt"), r"checkpoint '.*code.pt' is refused: .* it holds 'pathlib"),
        ("opnai", "unknown pretrained tag of tiny_clip 'opnai'"),
    ):
        with pytest.raises(UserError, match=message):
            CLIP("tiny_clip", pretrained)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("ViT-B-61", "unknown tower 'ViT-B-61'. Did you mean 'ViT-B-16'. 'zerolabel list towers' names them"),
        ("pakaged", "unknown tower 'pakaged'. Did you mean 'packaged'"),
        ("packaged", "tower 'packaged' is none of open_clip's"),
        ("transformers:google/tipsv2-b14", "is none of open_clip's"),
        ("RN50", "has no plain ViT image tower"),
        ("hf-hub:laion/some-model", "needs a pinned revision"),
        ("nowhere/model.json", "does not exist"),
    ],
)
def test_models_that_cannot_be_had(model: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        CLIP(model, None)


def test_openai_weights_get_quickgelu(monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenAI's weights in a model named without -quickgelu are silently wrong; the tag decides."""
    asked = {}

    def record(name: str, **kwargs: object) -> None:
        asked.update(kwargs)
        raise RuntimeError("no network")

    monkeypatch.setattr("open_clip.create_model", record)
    for tag, expected in (("openai", True), ("laion2b_s34b_b88k", False)):
        with pytest.raises(UserError, match="no network"):
            CLIP("ViT-B-16", tag)
        assert asked["force_quick_gelu"] is expected
