"""Files of weights in architectures that were released with GELU and with QuickGELU: known, or asked for."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from safetensors.torch import save_file

from backbones.clip import CLIP
from backbones.released import plain_name
from common.errors import UserError

SHAPE = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "patch_size": 8},
    "text_cfg": {"context_length": 8, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}
MEAN, OTHER, STD = (0.48145466, 0.4578275, 0.40821073), (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
ASKED = "does not say its activation: name the model 'small-quickgelu' .* or 'small-gelu'"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An architecture with both activations, and its weights as two kinds of file."""
    folder = tmp_path_factory.mktemp("released")
    (folder / "small.json").write_text(json.dumps(SHAPE))
    (folder / "small-quickgelu.json").write_text(json.dumps(SHAPE | {"quick_gelu": True}))
    for name in ("small", "small-quickgelu"):
        open_clip.add_model_config(folder / f"{name}.json")
    torch.manual_seed(0)
    model = open_clip.create_model("small")
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, folder / "weights.safetensors")
    torch.save(model.state_dict(), folder / "weights.pt")
    torch.jit.script(Archive(model.state_dict())).save(folder / "archive.pt")
    yield folder
    for name in ("small", "small-quickgelu"):
        open_clip.factory._MODEL_CONFIGS.pop(name)


class Archive(torch.nn.Module):
    """What OpenAI released: weights of a CLIP in a TorchScript archive."""

    def __init__(self, state: dict[str, torch.Tensor]) -> None:
        super().__init__()
        for name, value in state.items():
            *path, last = name.split(".")
            place = self
            for part in path:
                if not hasattr(place, part):
                    place.add_module(part, torch.nn.Module())
                place = getattr(place, part)
            place.register_buffer(last, value.clone())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def release(monkeypatch: pytest.MonkeyPatch, **tags: dict[str, Any]) -> None:
    """Tags of the architecture, as open_clip lists them."""
    tags = {tag: {"mean": MEAN, "std": STD, "hf_hub": "", "url": ""} | config for tag, config in tags.items()}
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "small", tags)


def is_quick(clip: CLIP) -> bool:
    return type(clip.blocks[0].mlp.gelu).__name__ == "QuickGELU"


def test_a_file_that_nobody_knows_is_asked_for(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    release(monkeypatch, laion={}, openai={"quick_gelu": True})
    for name in ("weights.pt", "weights.safetensors"):
        with pytest.raises(UserError, match=ASKED):
            CLIP("small", str(files / name))


def test_a_name_that_says_the_activation_settles_it(files: Path) -> None:
    images = torch.rand(1, 3, 32, 32)
    quick, plain = (CLIP(f"small-{name}", str(files / "weights.pt")) for name in ("quickgelu", "gelu"))
    assert (is_quick(quick), is_quick(plain)) == (True, False)
    assert (quick.dense(images) - plain.dense(images)).abs().max() > 1e-3
    assert quick.image_weights_hash() != plain.image_weights_hash()  # nor is what is kept of one taken for the other's
    assert not torch.equal(quick.embed_text(["cat"], ["{}"]), plain.embed_text(["cat"], ["{}"]))
    assert plain.name == f"small-gelu@{files / 'weights.pt'}"
    with pytest.raises(UserError, match="unknown tower 'small-gelu'"):
        CLIP("small-gelu", None)  # it says how a file is to be read, and nothing else
    with pytest.raises(UserError, match="unknown tower 'tiny_clip-gelu'"):
        CLIP("tiny_clip-gelu", str(files / "weights.pt"))


@pytest.mark.parametrize("quick", [True, False])
@pytest.mark.parametrize("address", ["https://x/{whole}/ViT.pt", "https://x/small-{short}.pt"])
def test_a_released_file_is_known_by_its_digest(
    files: Path, monkeypatch: pytest.MonkeyPatch, quick: bool, address: str
) -> None:
    digest = hashlib.sha256((files / "weights.pt").read_bytes()).hexdigest()
    url = address.format(whole=digest, short=digest[:8])
    release(monkeypatch, one={"url": url, "quick_gelu": quick, "mean": OTHER}, other={"quick_gelu": not quick})
    found = CLIP("small", str(files / "weights.pt"))
    assert is_quick(found) is quick
    assert found.mean.flatten().tolist() == [*OTHER]
    with pytest.raises(UserError, match=rf"is 'one', which model 'small-{'gelu' if quick else 'quickgelu'}' contradicts"):
        CLIP("small-gelu" if quick else "small-quickgelu", str(files / "weights.pt"))
    with pytest.raises(UserError, match=ASKED):
        CLIP("small", str(files / "weights.safetensors"))


@pytest.mark.parametrize("folder", ["models--apple--Small-DFN/snapshots/0123", "Small-DFN"])
def test_a_released_file_is_known_by_its_repository(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str, capsys: pytest.CaptureFixture[str]
) -> None:
    release(monkeypatch, dfn={"hf_hub": "apple/Small-DFN/", "quick_gelu": True}, laion={"hf_hub": "laion/Small/"})
    path = tmp_path / folder / "model.safetensors"
    path.parent.mkdir(parents=True)
    path.symlink_to(files / "weights.safetensors")
    assert is_quick(CLIP("small", str(path)))
    assert f"note: '{path}' is read as 'dfn' of small" in capsys.readouterr().err
    assert not is_quick(CLIP("small-gelu", str(path)))  # the user's word counts for more
    assert "note" not in capsys.readouterr().err


def test_an_archive_is_a_program_and_runs_only_if_it_was_released(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    release(monkeypatch, openai={"quick_gelu": True, "url": "https://x/weights.pt", "hf_hub": "openai/small"})
    for name in ("small", "small-quickgelu"):
        with pytest.raises(UserError, match="is a TorchScript archive, a program, and none that was released for small"):
            CLIP(name, str(files / "archive.pt"))
    digest = hashlib.sha256((files / "archive.pt").read_bytes()).hexdigest()
    release(monkeypatch, openai={"quick_gelu": True, "url": f"https://x/{digest}/small.pt"})
    found = CLIP("small", str(files / "archive.pt"))
    assert is_quick(found)
    assert found.image_weights_hash() == CLIP("small-quickgelu", str(files / "weights.pt")).image_weights_hash()


def test_pictures_are_normalised_as_the_released_files_agree(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    release(monkeypatch, one={"mean": OTHER}, two={"mean": OTHER}, quick={"quick_gelu": True})
    assert CLIP("small-gelu", str(files / "weights.pt")).mean.flatten().tolist() == [*OTHER]
    release(monkeypatch, one={"mean": OTHER}, two={}, quick={"quick_gelu": True})
    torch.testing.assert_close(CLIP("small-quickgelu", str(files / "weights.pt")).mean.flatten(), torch.tensor(MEAN))
    with pytest.raises(UserError, match=r"does not say how its pictures are normalised.* local-dir:FOLDER"):
        CLIP("small-gelu", str(files / "weights.pt"))


def test_a_folder_says_everything(files: Path, tmp_path: Path) -> None:
    preprocess = {"mean": OTHER, "std": STD}
    config = {"model_cfg": SHAPE | {"quick_gelu": True}, "preprocess_cfg": preprocess}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"cannot load weights .* into CLIP 'local-dir:.*Required pretrained weights"):
        CLIP(f"local-dir:{tmp_path}")
    (tmp_path / "open_clip_model.safetensors").symlink_to(files / "weights.safetensors")
    found = CLIP(f"local-dir:{tmp_path}")
    assert is_quick(found)
    assert found.mean.flatten().tolist() == [*OTHER]
    assert found.name == f"local-dir:{tmp_path}@file"
    with pytest.raises(UserError, match=r"is no folder with an open_clip_config\.json"):
        CLIP(f"local-dir:{files}")


def test_of_open_clips_own_names() -> None:
    """What OpenAI, MetaCLIP and DFN released is asked for; a name that was released with one activation is not."""
    assert plain_name("ViT-B-16-quickgelu") == plain_name("ViT-B-16-gelu") == plain_name("ViT-B-16") == "ViT-B-16"
    assert plain_name("ViT-B-16-SigLIP2-gelu") == "ViT-B-16-SigLIP2-gelu"
    quick = {m for m in open_clip.list_models() for t in open_clip.list_pretrained_tags_by_model(m)
             if open_clip.get_pretrained_cfg(m, t).get("quick_gelu")}  # fmt: skip
    assert all(f"{plain_name(name)}-quickgelu" in open_clip.list_models() for name in quick)
