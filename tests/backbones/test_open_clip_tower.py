"""Open_clip's other towers against open_clip itself, with random weights, for a small member of each family."""

import copy
import json
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
import torch.nn.functional as F

from backbones.clip import CLIP
from backbones.open_clip_tower import OpenCLIPTower
from backbones.towers import _described, load_tower
from common.errors import UserError
from methods import TrainingFree

TEXT = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
TIMM = {"timm_model_pretrained": False, "timm_pool": "", "timm_proj": "linear"}
FAMILIES: dict[str, dict[str, Any]] = {  # at the sizes that timm makes them for
    "map pooling": {"timm_model_name": "test_vit", "timm_pool": "map", "timm_proj": "none", "image_size": 160},
    "vit with a class token": {"timm_model_name": "test_vit", "timm_pool": "token", "image_size": 160},
    "vit with registers, mean": {"timm_model_name": "test_vit3", "timm_pool": "avg", "image_size": 160},
    "pe core": {"timm_model_name": "vit_pe_core_tiny_patch16_384", "timm_proj": None, "timm_pool": "map", "image_size": 384},
    "eva02": {"timm_model_name": "eva02_tiny_patch14_224", "timm_pool": "token", "timm_proj": None, "image_size": 224},
    "convnext": {"timm_model_name": "test_convnext", "image_size": 160},
    "mobileclip": {"timm_model_name": "fastvit_t8", "timm_pool": "avg", "timm_proj": None, "image_size": 128},
    "swin": {"timm_model_name": "swin_tiny_patch4_window7_224", "image_size": 224},
    "vitamin": {"timm_model_name": "vitamin_small_224", "image_size": 224},
    "resnet": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 16, "patch_size": None, "timm_model_name": None},
}


@pytest.fixture(scope="module", params=FAMILIES)
def tower(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> OpenCLIPTower:
    torch.manual_seed(0)
    vision, width = TIMM | FAMILIES[request.param], 24
    width = 64 if request.param == "map pooling" else 24
    path = tmp_path_factory.mktemp("config") / f"small_{request.param.replace(' ', '_').replace(',', '')}.json"
    path.write_text(json.dumps({"embed_dim": width, "vision_cfg": vision, "text_cfg": TEXT, "custom_text": True}))
    found = load_tower(str(path), None)
    assert isinstance(found, OpenCLIPTower)
    return found


def test_tokens_and_embedding_are_open_clips_own(tower: OpenCLIPTower) -> None:
    side = tower.native_side
    images = torch.rand(2, 3, side, side)
    normal = (images - tower.mean) / tower.std
    found = tower.clip.visual.forward_intermediates(normal, indices=1, normalize_intermediates=True)
    last = found["image_intermediates"][-1]
    if hasattr(getattr(tower.clip.visual, "trunk", None), "final_conv"):  # FastViT's, which open_clip leaves out there
        last = tower.clip.visual.trunk.final_conv(last)
    torch.testing.assert_close(tower.features(images), last, atol=1e-5, rtol=1e-4)
    pooled, dense = tower.tokens(images, pooled=True)
    assert dense.shape == (2, tower.channels, side // tower.stride, side // tower.stride)
    torch.testing.assert_close(dense.norm(dim=1), torch.ones(2, *dense.shape[2:]))
    torch.testing.assert_close(pooled, F.normalize(tower.clip.encode_image(normal), dim=-1), atol=1e-5, rtol=1e-4)


def test_a_place_read_alone_is_the_head_of_a_picture_that_is_the_same_everywhere(tower: OpenCLIPTower) -> None:
    """The head of equal tokens says what it says of one of them; ResNets' pooling adds positions, and is left out."""
    if not hasattr(tower.clip.visual, "trunk"):
        pytest.skip("its attention pool has position embeddings")
    trunk = tower.clip.visual.trunk
    last = trunk.forward_features(torch.rand(1, 3, tower.native_side, tower.native_side))
    if last.ndim == 3:
        place, same = last[:, -1], last[:, -1:].expand_as(last)
    elif str(getattr(trunk, "output_fmt", "")) == "NHWC":
        place, same = last[:, 0, 0], last[:, :1, :1].expand_as(last)
    else:
        place, same = last[:, :, 0, 0], last[:, :, :1, :1].expand_as(last)
    expected = tower.clip.visual.head(trunk.forward_head(same))
    torch.testing.assert_close(tower.read_alone(place), expected, atol=1e-5, rtol=1e-4)


def test_pictures_of_other_sizes_and_words(tower: OpenCLIPTower) -> None:
    dense = tower.dense(torch.rand(1, 3, 50, 90))
    assert dense.shape[0] == 1
    assert torch.isfinite(dense).all()
    text = tower.embed_text(["cat", "dog"], ["a photo of a {}."])
    assert text.shape == (2, dense.shape[1])
    with pytest.raises(UserError, match=rf"cannot follow the attention rule 'naclip'.*It follows: {', '.join(tower.rules)}\."):
        tower.dense(torch.rand(1, 3, 50, 90), "naclip")


def test_maskclip_is_the_last_block_with_every_token_alone(tower: OpenCLIPTower, monkeypatch: pytest.MonkeyPatch) -> None:
    """Expected: timm's own attention under a mask that shows a token nothing but itself."""
    images = torch.rand(1, 3, tower.native_side, tower.native_side)
    trunk = getattr(tower.clip.visual, "trunk", None)
    if type(trunk).__name__ not in ("VisionTransformer", "Eva"):
        with pytest.raises(UserError, match=r"cannot follow the attention rule 'maskclip'.*It follows: clip\."):
            tower.dense(images, "maskclip")
        return
    tower = copy.deepcopy(tower)  # other tests have the same one
    trunk = tower.clip.visual.trunk
    for parameter in trunk.blocks[-1].parameters():  # fresh biases are 0, layer scales almost
        parameter.data += 0.1 * torch.randn_like(parameter)
    attention = trunk.blocks[-1].attn
    attention.norm = torch.nn.LayerNorm(attention.proj.in_features)  # as larger EVA02s have it
    torch.nn.init.normal_(attention.norm.weight)
    plain, found = tower.dense(images), tower.dense(images, "maskclip")
    forward = attention.forward
    monkeypatch.setattr(attention, "forward", lambda x, **options: forward(x, **options | {"attn_mask": alone(x)}))
    torch.testing.assert_close(found, tower.dense(images), atol=1e-5, rtol=1e-4)
    assert (found - plain).abs().max() > 1e-3


def alone(x: torch.Tensor) -> torch.Tensor:
    return torch.eye(x.shape[1], dtype=torch.bool)


def test_the_list_says_which_rules_a_tower_follows(tower: OpenCLIPTower) -> None:
    config = open_clip.get_model_config(Path(tower.name.partition("@")[0]).stem)
    said = _described(config).rpartition("; ")[2]
    assert said == ", ".join(tower.rules)


def test_sigmoid_trained_towers_have_a_bias(tmp_path: Path) -> None:
    config = {"embed_dim": 64, "vision_cfg": TIMM | FAMILIES["map pooling"], "text_cfg": TEXT, "custom_text": True}
    for name, extra in (("softmax", {}), ("sigmoid", {"init_logit_bias": -10.0})):
        (tmp_path / f"{name}.json").write_text(json.dumps(config | extra))
    assert load_tower(str(tmp_path / "softmax.json"), None).bias is None
    sigmoid = load_tower(str(tmp_path / "sigmoid.json"), None)
    assert sigmoid.bias is not None
    assert float(sigmoid.bias) == -10


def test_a_vit_stays_a_clip_with_all_rules() -> None:
    assert isinstance(load_tower(), CLIP)
    assert TrainingFree("sclip").backbone.name == "tiny_clip@embedded"
