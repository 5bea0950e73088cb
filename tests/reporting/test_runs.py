"""Run folders, W&B and its sweeps."""

import csv
import http.server
import json
import random
import re
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image

import cli
from common.kept import Kept
from reporting.figures import thinned
from reporting.plan import Comparison
from reporting.recorder import RESULT
from reporting.result import Result
from reporting.runs import name_of, read_runs
from reporting.tables import write_tables
from tests.reporting.test_compare import result

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
def test_a_trial_of_every_sweep_runs(wandb: Any, file: Path, tmp_path: Path) -> None:
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
    assert len(list((folder / "test").glob("panels/*.png"))) == 2
    record = json.loads((folder / "environment.json").read_text())
    assert record["command"] == ["zerolabel", *arguments]
    assert record["version_torch"]
    assert "commit" in record
    assert yaml.safe_load((folder / "config_test.yaml").read_text())["data"]["init_args"]["pictures"] == 2
    for index in (0, 1):
        with Image.open(folder / "test" / "panels" / f"{index}.png") as panel:
            assert panel.width > 3 * 96


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """W&B without what an earlier session read, and nothing left of it for a later one."""
    module = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_SILENT", "true")
    module.teardown()
    yield module
    module.teardown()


def test_wandb_gets_configuration_classes_and_panels(wandb: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    arguments = ["test", "--config", "configs/training_free/sclip.yaml", "--data.pictures=2", "--data.num_workers=0"]
    arguments += ["--trainer.logger=WandbLogger", "--trainer.logger.project=tried", f"--trainer.default_root_dir={tmp_path}"]
    updates: list[dict[str, Any]] = []
    update = wandb.sdk.wandb_config.Config.update
    monkeypatch.setattr(
        wandb.sdk.wandb_config.Config, "update", lambda self, new, **o: (updates.append(dict(new)), update(self, new, **o))[1]
    )
    assert cli.main(arguments) == 0
    wandb.finish()
    config: dict[str, Any] = next(new for new in updates if "protocol_hash" in new)
    assert config["model"]["init_args"]["rule"] == "sclip"
    assert config["sees"] == "nothing"
    assert {"commit", "version_torch", "command"} <= config.keys()
    (run,) = (tmp_path / "wandb").glob("offline-run-*")
    assert len(list(run.glob("files/media/images/test/*.png"))) == 2
    assert len(list(run.glob("files/media/table/test/*.json"))) == 1
    (folder,) = (tmp_path / "tried").iterdir()
    assert json.loads((folder / "test" / "metrics.json").read_text())["pictures"] == 2
    assert (folder / "config_test.yaml").exists()


def test_without_wandb_it_is_said_plainly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("reporting.run_config.find_spec", lambda name: None)
    options = ["--trainer.logger=WandbLogger", f"--trainer.default_root_dir={tmp_path}", "--data.pictures=2"]
    assert cli.main(["test", "--config", "configs/training_free/sclip.yaml", *options]) == 2
    assert "pip install wandb" in capsys.readouterr().err


def test_an_unreachable_wandb_does_not_stop_training(
    wandb: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    server = "http://127.0.0.1:9"
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_BASE_URL", server)
    assert cli.main([*fit_command(tmp_path), "--trainer.logger=WandbLogger"]) == 0
    wandb.finish()
    assert f"W&B runs offline: {server} cannot be reached" in (said := capsys.readouterr().out)
    assert "wandb sync" in said
    assert len(list((tmp_path / "wandb").glob("offline-run-*"))) == 1
    assert list(tmp_path.rglob("step=2.ckpt"))


@pytest.fixture
def answering_server() -> Iterator[str]:
    """The address of a server that answers everything with an error."""
    server = http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_nobody_logged_in_runs_offline(
    wandb: Any,
    answering_server: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", answering_server)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("WANDB_MODE", "online")
    assert cli.main([*fit_command(tmp_path), "--trainer.logger=WandbLogger"]) == 0
    wandb.finish()
    assert "W&B runs offline: nobody is logged in" in capsys.readouterr().out
    assert len(list((tmp_path / "wandb").glob("offline-run-*"))) == 1


def fit_command(folder: Path) -> list[str]:
    """Two steps and a validation of two pictures after each."""
    return [
        *("fit", "--config", "configs/oracle/linear_probe.yaml", *SMALL[:-1], "--trainer.limit_val_batches=1.0"),
        *("--trainer.max_steps=2", "--trainer.val_check_interval=1", "--trainer.log_every_n_steps=1"),
        *("--data.pictures=2", "--data.train_pictures=8", "--data.train_batch_size=4", "--data.num_workers=0"),
        *("--trainer.enable_checkpointing=true", f"--trainer.default_root_dir={folder}"),
    ]


def test_tensorboard_and_files_get_the_same(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    logger = ["--trainer.logger=TensorBoardLogger", f"--trainer.logger.save_dir={tmp_path / 'board'}"]
    assert cli.main([*fit_command(tmp_path), *logger]) == 0
    assert cli.main(fit_command(tmp_path / "files")) == 0
    events = accumulator.EventAccumulator(str(next((tmp_path / "board").rglob("events*")).parent))
    events.Reload()
    (folder,) = (tmp_path / "files").iterdir()
    rows = list(csv.DictReader((folder / "metrics.csv").open()))
    for name in ("train/loss", "val/miou", "val/pixel_accuracy"):
        logged = [event.value for event in events.Scalars(name)]
        assert logged == pytest.approx([float(row[name]) for row in rows if row[name]], rel=1e-6)
        assert len(logged) == 2
    assert {f"val/panel {index}" for index in (0, 1)} == set(events.Tags()["images"])
    assert {path.name for path in (folder / "val" / "panels").iterdir()} == {"0.png", "1.png"}
    texts = {name.removesuffix("/text_summary") for name in events.Tags()["tensors"]}
    assert texts >= {"configuration", "environment", "val/iou per class"}
    table = events.Tensors("val/iou per class/text_summary")[-1].tensor_proto.string_val[0].decode().splitlines()[2:]
    classes = list(csv.DictReader((folder / "val" / "per_class.csv").open()))
    assert table == [f"| {row['class']} | {100 * float(row['iou']):.1f} |" for row in classes]


def test_a_report_of_runs_made_one_by_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = tmp_path / "runs"
    test = ["--data.pictures=3", "--data.num_workers=0", f"--trainer.default_root_dir={runs}"]
    for rule in ("clip", "sclip"):
        arguments = ["test", "--config", "configs/training_free/clip.yaml", "--model.rule", rule, *test]
        monkeypatch.setattr(sys, "argv", ["zerolabel", *arguments])
        assert cli.main(arguments) == 0
    arguments = fit_command(runs)
    monkeypatch.setattr(sys, "argv", ["zerolabel", *arguments])
    assert cli.main(arguments) == 0
    capsys.readouterr()
    assert cli.main(["report", str(runs), "--output", str(tmp_path / "report"), "--title", "Two rules"]) == 0
    said = capsys.readouterr().out
    assert "3 runs; report:" in said
    rows = {row["method"]: row for row in csv.DictReader((tmp_path / "report" / "results.csv").open())}
    names = ["training_free/clip --model.rule clip", "training_free/clip --model.rule sclip", "oracle/linear_probe"]
    assert set(rows) == set(names)
    metrics = [json.loads(file.read_text()) for file in runs.glob("test-*/test/metrics.json")]
    assert {float(rows[name]["miou"]) for name in names[:2]} == {found["miou"] for found in metrics}
    page = (tmp_path / "report" / "report.html").read_text()
    for part in ("<title>Two rules</title>", "How training went", *names, "rule: sclip", "The same pictures"):
        assert part in page, part
    chosen = f"mine={next(runs.glob('test-*'))}"
    assert cli.main(["report", chosen, "--output", str(tmp_path / "one")]) == 0
    assert "| mine | nothing |" in (tmp_path / "one" / "results.md").read_text()


def test_a_report_of_a_comparison_keeps_its_order_and_its_names(tmp_path: Path) -> None:
    """What an earlier plan left in ``kept`` is not shown; a name that a spreadsheet would run comes back as it was."""
    names = ["z", "=a", "m", "b"]
    results = [result(name, torch.tensor([30 + i, 40]), key=f"{7 * i % 4}") for i, name in enumerate(names)]
    store = Kept("results", tmp_path / "out" / "kept")
    for made in [*results, result("earlier", torch.tensor([1, 2]), key="5")]:
        replace(made, method="old name").save(store, made.key)
    write_tables(results, Comparison("t", [], []), tmp_path / "out")
    (run,) = read_runs([str(tmp_path / "out")])
    assert [found.method for found in run.results] == names
    assert [found.miou for found in run.results] == [made.miou for made in results]
    assert cli.main(["report", str(tmp_path / "out"), "--output", str(tmp_path / "report")]) == 0
    page = (tmp_path / "report" / "report.html").read_text()
    assert re.findall(r'scope="row">([^<]*)<', page)[:4] == names
    (tmp_path / "out" / "results.csv").unlink()
    assert len(read_runs([str(tmp_path / "out")])[0].results) == 5


def test_a_report_of_nothing_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["report", str(tmp_path / "none"), "--output", str(tmp_path / "report")]) == 2
    assert f"run folder '{tmp_path / 'none'}' does not exist" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert cli.main(["report", str(tmp_path / "empty"), "--output", str(tmp_path / "report")]) == 2
    assert "holds no run" in capsys.readouterr().err


def test_runs_of_one_name_are_told_apart_and_seeds_are_not(tmp_path: Path) -> None:
    for folder, seed in (("a", 0), ("b", 1), ("c", 1)):
        made = result("m", torch.tensor([30, 40]), seed=seed)
        made.save(Kept("results", tmp_path / folder / "test"), RESULT)
    named = [found.method for run in read_runs([f"mine={tmp_path}"]) for found in run.results]
    assert named == ["mine", "mine", "mine (c)"]


def test_curves_are_thinned_by_means() -> None:
    assert thinned([(1, 2.0), (2, 4.0), (3, 6.0)], points=2) == [(2, 3.0), (3, 6.0)]
    assert (
        name_of(["zerolabel", "fit", "-c", "configs/zeroseg/shapes.yaml", "--model.match=2"])
        == "zeroseg/shapes --model.match 2"
    )


def test_a_contrast_that_only_some_runs_have_is_left_out(tmp_path: Path) -> None:
    test = ["test", "--config", "configs/training_free/clip.yaml", "--data.pictures=2", "--data.num_workers=0"]
    assert cli.main([*test, f"--trainer.default_root_dir={tmp_path / 'runs'}"]) == 0
    folder = next((tmp_path / "runs").iterdir()) / "test"
    found = Result.load(Kept("results", folder), RESULT)
    assert found is not None
    found.mean_score_contrast, found.seed = 0.5, 1
    found.save(Kept("results", tmp_path / "runs" / "second" / "test"), RESULT)
    assert cli.main(["report", str(tmp_path / "runs"), "--output", str(tmp_path / "report")]) == 0
    assert "contrast" not in (tmp_path / "report" / "results.md").read_text()
