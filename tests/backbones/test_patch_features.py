"""The second tower's patch features, against the models of transformers they are read from."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    DINOv3ViTConfig,
    DINOv3ViTModel,
    ViTConfig,
    ViTModel,
)

from backbones.clip import CHECKPOINTS
from backbones.patch_features import PatchFeatures, load_patch_features
from common.errors import UserError
from common.weights import state_hash

SIZE: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32, "patch_size": 8}
FAMILIES: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "vit": (ViTModel, ViTConfig, {"intermediate_size": 64}),
    "dinov2": (Dinov2Model, Dinov2Config, {"mlp_ratio": 2}),
    "registers": (Dinov2WithRegistersModel, Dinov2WithRegistersConfig, {"mlp_ratio": 2, "num_register_tokens": 3}),
    "dinov3": (DINOv3ViTModel, DINOv3ViTConfig, {"intermediate_size": 64, "num_register_tokens": 4}),
}


def saved(family: str, folder: Path) -> tuple[Any, PatchFeatures]:
    """A model with random weights, and the same read from the folder it was saved into."""
    model, config, options = FAMILIES[family]
    torch.manual_seed(0)
    made = model(config(**SIZE, **options)).eval()
    made.save_pretrained(folder)
    normalised = (CHECKPOINTS / "tiny_dino" / "preprocessor_config.json").read_text()
    (folder / "preprocessor_config.json").write_text(normalised)
    return made, load_patch_features(str(folder))


@pytest.mark.parametrize("family", FAMILIES)
def test_features_are_the_last_tokens_of_patches_alone(family: str, tmp_path: Path) -> None:
    made, features = saved(family, tmp_path)
    prefix = 1 + FAMILIES[family][2].get("num_register_tokens", 0)
    images = torch.rand(2, 3, 32, 32)
    pixels = (images - torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)) / torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    with torch.no_grad():
        tokens = made(pixels).last_hidden_state[:, prefix:]
        found = features(images)
    assert found.shape == (2, 32, 4, 4)
    torch.testing.assert_close(found[:, :, 1, 2], tokens[:, 4 + 2])
    assert features(torch.rand(1, 3, 24, 41)).shape == (1, 32, 3, 6)


@pytest.mark.parametrize("family", FAMILIES)
def test_keys_and_values_are_those_of_the_last_block(family: str, tmp_path: Path) -> None:
    _, features = saved(family, tmp_path)
    images = torch.rand(1, 3, 24, 32)
    keys, values = (features(images, part) for part in ("keys", "values"))
    assert keys.shape == values.shape == (1, 32, 3, 4)
    before = features(images)
    named = dict(features.model.named_parameters())
    last = [name for name in named if name.endswith("v_proj.weight")][-1]
    named[last].mul_(2)
    bias = last.removesuffix("weight") + "bias"
    if bias in named:
        named[bias].mul_(2)
    torch.testing.assert_close(features(images, "values"), 2 * values)
    torch.testing.assert_close(features(images, "keys"), keys)
    assert not torch.allclose(features(images), before)


def test_the_weights_and_the_normalisation_are_in_the_state(tmp_path: Path) -> None:
    """So that a result kept under a hash of the state is not taken for another tower's."""
    _, features = saved("vit", tmp_path)
    before = state_hash(features.state_dict())
    features.mean.add_(0.1)
    assert state_hash(features.state_dict()) != before


def test_what_cannot_be_read_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="neither a folder that is there nor a repository"):
        load_patch_features("dinov9")
    with pytest.raises(UserError, match="dino_revision COMMIT"):
        load_patch_features("someone/dino")
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(UserError, match=r"model_type of .* 'bert'"):
        load_patch_features(str(tmp_path))
    saved("vit", tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match="cannot load the weights"):
        load_patch_features(str(tmp_path))
