"""Dense tokens agree with the published implementations (``shared/parity``), square and not, to 1e-4."""

import json
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from backbones.attention import RULES, Heads, Rule, _attend, _gem, gaussian_bias
from backbones.clip import CLIP
from methods.training_free import feature_surgery
from tests.conftest import ROOT, needs_shared

SHARED = ROOT.parent / "shared" / "parity"
pytestmark = needs_shared


@pytest.fixture(scope="module")
def surgery() -> dict[str, Any]:
    return torch.load(SHARED / "clip_surgery.pt", weights_only=True)


@pytest.fixture(scope="module")
def rules() -> dict[str, Any]:
    return torch.load(SHARED / "attention_rules.pt", weights_only=True)


@pytest.fixture(scope="module")
def clip(surgery: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> CLIP:
    """The reference weights, loaded as a user would: a config file and a safetensors file."""
    folder = tmp_path_factory.mktemp("parity")
    shape = surgery["meta"]["config"]
    vision = {"image_size": shape["image_resolution"], "layers": shape["vision_layers"], "width": shape["vision_width"]}
    config = {
        "embed_dim": shape["embed_dim"],
        "quick_gelu": True,
        "vision_cfg": vision | {"patch_size": shape["vision_patch_size"], "head_width": 64},
        "text_cfg": {
            "context_length": shape["context_length"],
            "vocab_size": shape["vocab_size"],
            "width": shape["transformer_width"],
            "heads": shape["transformer_heads"],
            "layers": shape["transformer_layers"],
        },
    }
    (folder / "parity.json").write_text(json.dumps(config))
    save_file({k: v.contiguous() for k, v in surgery["state_dict"].items()}, folder / "parity.safetensors")
    model = CLIP(str(folder / "parity.json"), str(folder / "parity.safetensors"))
    # the references were run on images that were already normalised
    model.mean.zero_()
    model.std.fill_(1)
    return model


def raw_tokens(clip: CLIP, images: torch.Tensor, rule: Rule, resize: str = "scaled_bicubic") -> torch.Tensor:
    """(B, 1 + n, C) before normalisation, the class token from the unchanged stream."""
    x, grid = clip.embed_patches(images, resize)
    x, stream = clip._run(x, grid, rule, keep_original=True)
    return clip.project(torch.cat([x[:, :1], stream[:, 1:]], 1))


BARE = {"residual": False, "feed_forward": False}
SCLIP_MIX, NACLIP_MIX = RULES["sclip"].mix, RULES["naclip"].mix


def key_key(heads: Heads) -> torch.Tensor:
    return _attend(heads.k, heads.k, heads.v)


CASES = {
    "sclip": RULES["sclip"],
    "vanilla": RULES["clip"],
    "naclip_reduced_naclip": RULES["naclip"],
    "naclip_vanilla_naclip": Rule(NACLIP_MIX),
    "naclip_reduced_kk": Rule(key_key, **BARE),
    "naclip_reduced_vanilla": Rule(RULES["clip"].mix, **BARE),
    "clearcliprepo_vanilla_nores": Rule(RULES["clip"].mix, **BARE),
    "clearcliprepo_MaskCLIP_nores": RULES["maskclip_bare"],
    "clearcliprepo_SCLIP_nores": Rule(SCLIP_MIX, **BARE),
    "clearcliprepo_ClearCLIP_nores": RULES["clearclip"],
    "clearcliprepo_vanilla_res": RULES["clip"],
    "clearcliprepo_MaskCLIP_res": RULES["maskclip"],
    "clearcliprepo_SCLIP_res": RULES["sclip"],
    "clearcliprepo_ClearCLIP_res": Rule(RULES["clearclip"].mix),
    "gem_iter1": RULES["gem"],
    "gem_iter2": Rule(lambda a: _gem(a, 2), feed_forward=False, depth=6),
}


@pytest.mark.parametrize("name", CASES)
def test_last_layer_rules(clip: CLIP, surgery: dict[str, Any], rules: dict[str, Any], name: str) -> None:
    got = raw_tokens(clip, surgery["image"], CASES[name])[:, 1:]
    torch.testing.assert_close(got, rules["outputs"][name], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["sclip", "naclip_reduced_naclip", "clearcliprepo_ClearCLIP_nores", "gem_iter1"])
def test_last_layer_rules_on_a_picture_that_is_not_square(clip: CLIP, rules: dict[str, Any], name: str) -> None:
    resize = "antialias" if name.startswith("gem") else "scaled_bicubic"
    got = raw_tokens(clip, rules["image_nonsquare"], CASES[name], resize)[:, 1:]
    torch.testing.assert_close(got, rules["outputs_nonsquare"][name], atol=1e-4, rtol=1e-4)


def test_naclip_gaussian(rules: dict[str, Any]) -> None:
    torch.testing.assert_close(gaussian_bias(4, 4), rules["naclip_omega_4x4"], atol=1e-6, rtol=1e-6)


def test_surgery_tokens(clip: CLIP, surgery: dict[str, Any]) -> None:
    for rule, key in ((RULES["clip"], "original_tokens"), (RULES["surgery"], "surgery_tokens")):
        torch.testing.assert_close(raw_tokens(clip, surgery["image"], rule), surgery[key], atol=1e-4, rtol=1e-4)
    larger = raw_tokens(clip, surgery["image96"], RULES["surgery"], "bilinear")
    torch.testing.assert_close(larger, surgery["surgery_tokens_96"], atol=1e-4, rtol=1e-4)


def test_feature_surgery_for_a_whole_batch(clip: CLIP, surgery: dict[str, Any]) -> None:
    """The published function works for one picture at a time; ours for a batch, on dense and image embeddings."""
    pooled, dense = clip.tokens(surgery["image"], "surgery", pooled=True)
    text = surgery["text_features_unit"]
    assert pooled is not None
    got = feature_surgery(torch.einsum("bchw,kc->bkhw", dense, text), pooled @ text.T)
    torch.testing.assert_close(got.flatten(2).transpose(1, 2), surgery["feature_surgery"][:, 1:], atol=1e-4, rtol=1e-4)


def test_text_tower(clip: CLIP, surgery: dict[str, Any]) -> None:
    got = clip.clip.encode_text(surgery["tokens"])
    torch.testing.assert_close(got, surgery["text_features"], atol=1e-4, rtol=1e-4)
