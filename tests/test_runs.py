"""Run folders, W&B and its sweeps."""

import json
import random
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

import cli

SWEEPS = sorted(Path("configs/sweeps").glob("*.yaml"))
SMALL = [
    *("--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false", "--trainer.accelerator=cpu"),
    *("--trainer.max_steps=1", "--trainer.limit_val_batches=1"),
]
SMALL_DATA = {
    "ifseg": ["--data.scored_on.pictures=2", "--data.maps=64", "--data.num_workers=0"],
    "protocol": ["--data.pictures=2", "--data.num_workers=0"],
}
SMALL_TRAINING = ["--data.pictures=2", "--data.train_pictures=32", "--data.train_batch_size=16", "--data.num_workers=0"]


def drawn(parameter: dict[str, Any], rng: random.Random) -> Any:
    """A value as the sweep's controller would draw it."""
    if "value" in parameter:
        return parameter["value"]
    if "values" in parameter:
        return rng.choice(parameter["values"])
    assert parameter["distribution"] in ("uniform", "log_uniform_values")
    return rng.uniform(parameter["min"], parameter["max"])


def agent_command(sweep: dict[str, Any], rng: random.Random) -> list[str]:
    """What the agent starts, after the program's name (``${args}`` are ``--key=value``)."""
    args = [f"--{name}={drawn(parameter, rng)}" for name, parameter in sweep["parameters"].items()]
    words = sweep["command"]
    assert words[:3] == ["${env}", "${interpreter}", "${program}"]
    assert sweep["program"] == "cli.py"
    return [part for word in words[3:] for part in (args if word == "${args}" else [word])]


@pytest.mark.parametrize("file", SWEEPS, ids=lambda file: file.stem)
def test_a_trial_of_every_sweep_runs(file: Path, tmp_path: Path) -> None:
    wandb = pytest.importorskip("wandb")
    sweep = yaml.safe_load(file.read_text())
    assert sweep["metric"] == {"name": "val/miou", "goal": "maximize"}
    options = [*SMALL, *SMALL_DATA.get(file.stem, SMALL_TRAINING), f"--trainer.default_root_dir={tmp_path}"]
    if file.stem == "protocol":
        options.remove("--trainer.max_steps=1")
    assert cli.main([*agent_command(sweep, random.Random(file.stem)), *options]) == 0
    wandb.finish()


def test_a_run_folder_says_what_ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["test", "--config", "configs/training_free/sclip.yaml", "--data.pictures=2", "--data.num_workers=0"]
    arguments += [f"--trainer.default_root_dir={tmp_path}"]
    monkeypatch.setattr(sys, "argv", ["zerolabel", *arguments])
    assert cli.main(arguments) == 0
    (folder,) = tmp_path.iterdir()
    record = json.loads((folder / "environment.json").read_text())
    assert record["command"] == ["zerolabel", *arguments]
    assert record["version_torch"]
    assert "commit" in record
    assert yaml.safe_load((folder / "config_test.yaml").read_text())["data"]["init_args"]["pictures"] == 2
    for index in (0, 1):
        with Image.open(folder / "panels" / f"{index}.png") as panel:
            assert panel.width > 3 * 96


def test_wandb_gets_configuration_classes_and_panels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb")
    wandb.teardown()  # else the mode of the first session stays
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    arguments = ["test", "--config", "configs/training_free/sclip.yaml", "--data.pictures=2", "--data.num_workers=0"]
    arguments += ["--trainer.logger=WandbLogger", "--trainer.logger.project=tried", f"--trainer.default_root_dir={tmp_path}"]
    updates: list[dict[str, Any]] = []
    update = wandb.sdk.wandb_config.Config.update
    monkeypatch.setattr(
        wandb.sdk.wandb_config.Config, "update", lambda self, new, **o: (updates.append(dict(new)), update(self, new, **o))[1]
    )
    assert cli.main(arguments) == 0
    wandb.finish()
    wandb.teardown()
    config: dict[str, Any] = next(new for new in updates if "protocol_hash" in new)
    assert config["model"]["init_args"]["rule"] == "sclip"
    assert config["sees"] == "nothing"
    assert {"commit", "version_torch", "command"} <= config.keys()
    (run,) = (tmp_path / "wandb").glob("offline-run-*")
    assert len(list(run.glob("files/media/images/test/*.png"))) == 2
    assert len(list(run.glob("files/media/table/test/*.json"))) == 1
    (folder,) = (tmp_path / "tried").iterdir()
    assert json.loads((folder / "metrics.json").read_text())["pictures"] == 2
    assert (folder / "config_test.yaml").exists()


def test_without_wandb_it_is_said_plainly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("zerolabel_lightning.find_spec", lambda name: None)
    options = ["--trainer.logger=WandbLogger", f"--trainer.default_root_dir={tmp_path}", "--data.pictures=2"]
    assert cli.main(["test", "--config", "configs/training_free/sclip.yaml", *options]) == 2
    assert "pip install wandb" in capsys.readouterr().err
