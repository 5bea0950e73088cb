"""What a checkpoint holds: what was learnt, without the frozen weights that the method's constructor loads."""

from pathlib import Path
from typing import Any

import pytest
import torch

import cli
from commands.trained import load_checkpoint
from common.errors import UserError
from common.restorable import LEFT_OUT, learnt_state, load_learnt
from evaluation import Vocabulary
from methods import METHODS
from tests.contract.test_contract import shapes, trainer

FROZEN = {  # method -> a part that is left out, one that is not
    "FreeSeg": ("backbone.clip.visual.conv1.weight", "network."),
    "ICLIP": ("backbone.clip.visual.conv1.weight", "projection"),
    "LinearProbe": ("backbone.clip.visual.conv1.weight", "head."),
    "ZeroSeg": ("teacher.clip.clip.visual.conv1.weight", "student."),
    "IFSeg": ("ofa.encoder.embed_images.conv1.weight", "ofa.encoder.layers."),
}


def fitted(folder: Path, name: str, **options: Any) -> tuple[Any, Path]:
    model: Any = METHODS[name](**options)
    run = trainer(folder, max_steps=1, limit_val_batches=0, enable_checkpointing=False)
    run.fit(model, shapes(METHODS[name]))
    run.save_checkpoint(folder / "one.ckpt", weights_only=False)
    return model, folder / "one.ckpt"


def content(file: Path) -> dict[str, Any]:
    found: dict[str, Any] = torch.load(file, weights_only=True)
    return found


@pytest.mark.parametrize("name", FROZEN)
def test_frozen_weights_are_left_out_and_come_back(name: str, tmp_path: Path) -> None:
    """A FreeSeg checkpoint held all of CLIP: 600 MB every 100 steps with a ViT-B/16."""
    model, file = fitted(tmp_path, name)
    saved, whole = content(file), model.state_dict()
    out, kept = FROZEN[name]
    left = set(saved[LEFT_OUT]["names"])
    assert left | set(saved["state_dict"]) == set(whole)
    assert not left & set(saved["state_dict"])
    assert any(key.startswith(out) for key in left)
    assert any(key.startswith(kept) for key in saved["state_dict"])
    trained = {key for key, value in model.named_parameters() if value.requires_grad}
    assert not left & trained
    fresh = METHODS[name]()
    assert all(torch.equal(fresh.state_dict()[key], whole[key]) for key in left)  # what is left out was never changed
    torch.manual_seed(7)
    again: Any = METHODS[name].load_from_checkpoint(file, weights_only=True)
    image = torch.rand(3, 64, 64)
    answers = []
    for one in (model, again):
        one.use_vocabulary(Vocabulary.load("shapes13" if name in ("LinearProbe",) else "shapes12"))
        torch.manual_seed(0)
        answers.append(one.segment(image, with_score=True))
    assert torch.equal(answers[0].labels, answers[1].labels)
    assert torch.equal(answers[0].score, answers[1].score)


def test_the_share_that_is_left_out(tmp_path: Path) -> None:
    model, file = fitted(tmp_path, "FreeSeg")
    every = sum(value.nbytes for value in model.state_dict().values())
    kept = sum(value.nbytes for value in content(file)["state_dict"].values())
    assert kept == sum(value.nbytes for value in learnt_state(model).values())
    assert kept < 0.3 * every


def test_weights_that_nothing_brings_back_are_kept(tmp_path: Path) -> None:
    model, file = fitted(tmp_path, "FreeSeg", pretrained=None)
    assert set(content(file)["state_dict"]) == set(model.state_dict())
    torch.manual_seed(9)
    again: Any = METHODS["FreeSeg"].load_from_checkpoint(file, weights_only=True)
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in model.state_dict().items())


def test_checkpoints_of_other_frozen_weights_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, file = fitted(tmp_path, "FreeSeg")
    other: Any = METHODS["FreeSeg"](pretrained=None)
    with pytest.raises(UserError, match="was trained on other frozen weights than this one's"):
        load_checkpoint(other, str(file))
    command = ["test", "--config", "configs/freeseg/shapes.yaml", f"--ckpt_path={file}", "--model.pretrained=null"]
    assert cli.main([*command, "--data.pictures=1", f"--trainer.default_root_dir={tmp_path}"]) == 2
    assert "trained on other frozen weights" in capsys.readouterr().err
    half = METHODS["FreeSeg"]().half()  # as --trainer.precision bf16-true would: its digest is another, its names are not
    load_checkpoint(half, str(file))


def test_whole_states_are_read_too(tmp_path: Path) -> None:
    """Checkpoints of before, and models that a notebook saved."""
    model, file = fitted(tmp_path, "LinearProbe")
    old = content(file)
    del old[LEFT_OUT]
    torch.save(old | {"state_dict": model.state_dict()}, tmp_path / "old.ckpt")
    for path in (file, tmp_path / "old.ckpt"):
        torch.manual_seed(3)
        fresh = METHODS["LinearProbe"]()
        load_checkpoint(fresh, str(path))
        assert all(torch.equal(value, fresh.state_dict()[key]) for key, value in model.state_dict().items())
    fresh = METHODS["LinearProbe"]()
    load_learnt(fresh, learnt_state(model))
    assert all(torch.equal(value, fresh.state_dict()[key]) for key, value in model.state_dict().items())
    with pytest.raises(UserError, match="is of another model"):
        load_checkpoint(METHODS["ZeroSeg"](), str(file))


def test_trained_parts_of_a_frozen_tower_are_kept() -> None:
    """As in a method that tunes CLIP's projection."""
    model: Any = METHODS["FreeSeg"]()
    model.backbone.visual.proj.requires_grad_(True)
    with torch.no_grad():
        model.backbone.visual.proj.mul_(2)
    checkpoint: dict[str, Any] = {"state_dict": model.state_dict()}
    model.on_save_checkpoint(checkpoint)
    assert "backbone.clip.visual.conv1.weight" not in checkpoint["state_dict"]
    assert torch.equal(checkpoint["state_dict"]["backbone.clip.visual.proj"], model.backbone.visual.proj)
