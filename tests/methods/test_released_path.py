"""The whole path from a picture's file to its label map, against label maps that the released code made.

``released_label_maps.npz`` holds what the segmentors of SCLIP@b56bd30, NACLIP@0cac3a6, ClearCLIP@ad68a40 and SC-CLIP@0417ba9
answered with their own configurations and class files, run by hand on the CPU in float32 (mmseg's registry stubbed, pictures
read and resized by OpenCV as mmcv does) with the weights that :func:`drawn_weights` makes: PRESET_BENCHMARK/PICTURE -> every
fourth pixel.
GroupViT@13b7861's are made alike, but resized in float32: its tokens are dealt out hard, and with drawn weights the rounding of
a grey level changes who gets what.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from transformers import GroupViTConfig, GroupViTModel

from evaluation import Vocabulary
from methods import METHODS
from tests.conftest import SHARED, needs_shared

pytestmark = needs_shared
MODEL: dict[str, Any] = {
    "embed_dim": 64,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 224, "width": 128, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 2},
}
RELEASED = Path(__file__).with_name("released_label_maps.npz")
PICTURES = SHARED / "real" / "VOCdevkit" / "VOC2012" / "JPEGImages"


def drawn_weights(shapes: dict[str, torch.Size]) -> dict[str, Tensor]:
    """Weights that a generator of each name's own draws; alike under every implementation that has CLIP's names."""
    state = {}
    for seed, name in enumerate(sorted(shapes)):
        drawn = torch.randn(shapes[name], generator=torch.Generator().manual_seed(seed))
        if "ln_" in name:
            state[name] = 1 + 0.1 * drawn if name.endswith("weight") else 0.1 * drawn
        elif name.endswith("bias"):
            state[name] = 0.1 * drawn
        elif "embedding" in name:
            state[name] = 0.5 * drawn
        elif name == "logit_scale":
            state[name] = torch.tensor(4.6)
        else:
            inputs = len(drawn) if drawn.ndim < 2 or name.endswith("proj") else drawn[0].numel()
            state[name] = 1.5 * drawn / inputs**0.5
    return state


GROUPVIT: dict[str, Any] = {
    "vision_config": {
        "hidden_size": 48,
        "intermediate_size": 192,
        "depths": [2, 1, 1],
        "num_hidden_layers": 4,
        "num_group_tokens": [16, 8, 0],
        "num_output_groups": [16, 8, 0],
        "num_attention_heads": 3,
        "image_size": 224,
        "patch_size": 16,
    },
    "text_config": {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 1, "num_attention_heads": 1},
    "projection_dim": 256,
    "projection_intermediate_dim": 4096,
}


def drawn_groupvit(shapes: dict[str, torch.Size]) -> dict[str, Tensor]:
    """As :func:`drawn_weights`, under transformers' names."""
    state = {}
    for seed, name in enumerate(sorted(shapes)):
        drawn = torch.randn(shapes[name], generator=torch.Generator().manual_seed(seed))
        if name == "logit_scale":
            state[name] = torch.tensor(4.6)
        elif name.endswith("num_batches_tracked"):
            state[name] = torch.tensor(0)
        elif name.endswith("running_var"):
            state[name] = 1 + 0.1 * drawn.abs()
        elif name.endswith(("bias", "running_mean")):
            state[name] = 0.1 * drawn
        elif drawn.ndim == 1:
            state[name] = 1 + 0.1 * drawn
        elif ("embedding" in name and "patch" not in name) or name.endswith("group_token"):
            state[name] = 0.5 * drawn
        else:
            state[name] = 3 * drawn / drawn[0].numel() ** 0.5
    return state


def drawn_clip(folder: Path, layers: int) -> dict[str, str]:
    """Options that name a CLIP of so many blocks with drawn weights."""
    config, weights = folder / f"drawn_clip_{layers}.json", folder / "drawn.safetensors"
    vision = {**MODEL["vision_cfg"], "layers": layers}
    config.write_text(json.dumps({**MODEL, "vision_cfg": vision}))
    open_clip.add_model_config(config)
    model = open_clip.create_model(config.stem)
    save_file(drawn_weights({name: weight.shape for name, weight in model.named_parameters()}), weights)
    return {"clip": str(config), "pretrained": str(weights)}


@pytest.mark.parametrize(("rule", "layers"), [("sclip", 3), ("naclip", 3), ("clearclip", 3), ("sc_clip", 12)])
def test_label_maps_are_those_of_the_released_code(rule: str, layers: int, tmp_path: Path) -> None:
    """Up to the difference that the presets name: pictures are resized to whole grey levels there, which shifts borders."""
    agrees(METHODS["TrainingFree"](rule=rule, protocol=rule, **drawn_clip(tmp_path, layers)), rule, 0.994)


def test_label_maps_are_those_of_the_released_groupvit(tmp_path: Path) -> None:
    """Patches are assigned to groups by an argmax, which rounding decides where two are nearly even: .999 on one kind of CPU,
    .981 of the worst picture on another.
    """
    model = GroupViTModel(GroupViTConfig(**GROUPVIT))
    model.load_state_dict(drawn_groupvit({name: weight.shape for name, weight in model.state_dict().items()}))
    model.save_pretrained(tmp_path)
    agrees(METHODS["GroupViT"](weights=str(tmp_path), protocol="groupvit"), "groupvit", 0.975)


def agrees(model: Any, preset: str, share: float, recorded: Path = RELEASED) -> None:
    """At least this share of the pixels of every recorded label map is what the model answers."""
    released = np.load(recorded)
    asked = [key for key in released if key.startswith(f"{preset}_")]
    assert asked
    for key in asked:
        benchmark, picture = key.removeprefix(f"{preset}_").split("/")
        model.use_vocabulary(Vocabulary.load(benchmark))
        pixels = np.array(Image.open(PICTURES / f"{picture}.jpg").convert("RGB"))
        labels = model.segment(torch.from_numpy(pixels).permute(2, 0, 1) / 255).labels.numpy()[::4, ::4]
        assert labels.shape == released[key].shape
        assert (labels == released[key]).mean() > share, key
