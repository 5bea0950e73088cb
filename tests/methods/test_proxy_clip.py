"""ProxyCLIP: its attention, and the whole path against label maps that the released code made.

``released_two_towers.npz`` holds what ProxyCLIP@e7b767f answered with DINO's released network, made as those of
:mod:`tests.methods.test_released_path`, with weights that its functions draw.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import ViTConfig, ViTModel

from backbones.clip import CHECKPOINTS
from common.errors import UserError
from common.weights import weights_hash
from methods.proxy_clip import ProxyCLIP, mixed_by, proxy_attention
from methods.training_free import TrainingFree
from tests.conftest import needs_shared
from tests.methods.test_released_path import agrees, drawn_clip, drawn_groupvit

RECORDED = Path(__file__).with_name("released_two_towers.npz")
DINO: dict[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 256,
    "image_size": 224,
    "layer_norm_eps": 1e-6,
}


def drawn_dino(folder: Path, patch: int, **other: Any) -> str:
    """A folder of a DINO with drawn weights."""
    model = ViTModel(ViTConfig(**DINO | other, patch_size=patch), add_pooling_layer=False)
    model.load_state_dict(drawn_groupvit({name: weight.shape for name, weight in model.state_dict().items()}))
    model.save_pretrained(folder / "dino")
    normalised = (CHECKPOINTS / "tiny_dino" / "preprocessor_config.json").read_text()
    (folder / "dino" / "preprocessor_config.json").write_text(normalised)
    return str(folder / "dino")


@needs_shared
def test_label_maps_are_those_of_the_released_code(tmp_path: Path) -> None:
    model = ProxyCLIP(dino=drawn_dino(tmp_path, 8), protocol="proxy_clip", **drawn_clip(tmp_path, 3))
    agrees(model, "proxy_clip", 0.99, RECORDED)


def test_what_is_less_alike_than_usual_is_masked() -> None:
    features = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]]).T[None, :, None]  # three patches in a row
    mean = (3 + 2 * (0.8 + 0.6 + 0.0)) / 9
    assert 0.6 < 1.2 * mean < 0.8
    weights = proxy_attention(5 * features)[0]
    logits = torch.tensor([3 * (1 - 1.2 * mean), 3 * (0.8 - 1.2 * mean)])
    torch.testing.assert_close(weights[0], torch.cat([logits.softmax(0), torch.zeros(1)]))
    torch.testing.assert_close(weights[2], torch.tensor([0.0, 0.0, 1.0]))


def test_a_picture_that_is_all_alike_keeps_its_patches() -> None:
    assert torch.equal(proxy_attention(torch.ones(1, 4, 2, 3))[0], torch.eye(6))


@torch.no_grad()
def test_patches_that_see_themselves_alone_are_the_bare_value_path() -> None:
    """Then, on CLIP's own grid, nothing is mixed: MaskCLIP's values without residual and MLP."""
    clip = load_clip()
    layers = clip.layers(torch.rand(1, 3, 48, 64), "bicubic")
    orthogonal = torch.eye(48).unflatten(1, (6, 8))[None]
    rows = clip.blocks[-1].ln_1(layers.tokens[-1])
    values = torch.nn.functional.linear(
        rows, *(part[-192:] for part in (layers.last.attn.in_proj_weight, layers.last.attn.in_proj_bias))
    )
    torch.testing.assert_close(mixed_by(orthogonal, layers), layers.last.attn.out_proj(values)[:, 1:], atol=1e-4, rtol=1e-4)


def load_clip() -> Any:
    return TrainingFree("clip").backbone


def test_the_second_tower_is_in_the_hash_and_must_fit() -> None:
    assert weights_hash(ProxyCLIP()) != weights_hash(ProxyCLIP(dino_pretrained=False))
    with pytest.raises(UserError, match="neither a folder"):
        ProxyCLIP(dino="no_dino")
