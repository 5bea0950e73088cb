"""The command line as a user meets it: help, mistakes, configurations, checkpoints, predictions."""

import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import cli
from commands import network
from commands.checks import note_emulated_precision
from common.errors import UserError
from datamodules.pictures import find_images
from datamodules.unlabeled import image_source
from methods import METHODS
from tests import processes
from tests.conftest import ROOT
from tests.data import make_pictures, make_voc

SMALL = ["--data.pictures=3", "--data.num_workers=0", "--trainer.enable_progress_bar=false", "--trainer.accelerator=cpu"]
SCLIP = ["--config", "configs/training_free/sclip.yaml"]
PROBE = ["--config", "configs/oracle/linear_probe.yaml"]


def fails(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Runs a command that must fail with exit code 2 and one line; returns that line."""
    assert cli.main(list(arguments)) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.strip()]
    assert len(lines) == 1, lines
    assert lines[0].startswith("error:")
    return lines[0]


LIGHT = [["list", "--help"], ["list", "method"], ["completion", "--help"], ["completion", "tcsh"], ["predcit"]]


def test_help_needs_no_heavy_import() -> None:
    """What makes --help fast, and the mistakes of light commands: neither torch nor lightning is imported for them."""
    calls = f"cli.main(['--help']); [cli.main(a) for a in {LIGHT}]"
    code = f"import sys, cli; {calls}; assert not {{'torch', 'lightning', 'open_clip'}} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert all(command in done.stdout for command in cli.COMMANDS)


def test_lists_and_completion_answer_at_once_while_the_code_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ZEROLABEL_CACHE", str(tmp_path))
    said = []
    for _ in range(2):
        assert cli.main(["list"]) == 0
        assert cli.main(["completion", "bash"]) == 0
        said.append(capsys.readouterr().out)
    assert said[0] == said[1]
    code = "import sys, cli; cli.main(['list']); cli.main(['completion', 'bash']); assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == said[0]
    for damaged in (tmp_path / "answers").iterdir():
        damaged.write_bytes(damaged.read_bytes().replace(b"methods", b"methode").replace(b"predict", b"predikt"))
    assert cli.main(["list"]) == 0
    assert capsys.readouterr().out in said[0]
    monkeypatch.setattr("common.answers.state_of_the_code", lambda: "other")
    monkeypatch.setattr("commands.list.names", lambda: {"methods": {"new": ""}})
    assert cli.main(["list", "methods"]) == 0
    assert "new" in capsys.readouterr().out  # the code changed


def test_torchvision_of_another_build_does_not_stop_us() -> None:
    code = "import common.compat, torch, torchvision, lightning, open_clip; print(torch.ops.torchvision.nms)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True)


def test_list_names_everything(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["list"]) == 0
    printed = capsys.readouterr().out
    for name in ("TrainingFree", "Shapes", "voc21", "sclip", "naclip", "context59_official"):
        assert name in printed


def test_a_reader_that_leaves_early_is_no_error() -> None:
    done = subprocess.run(
        f"{sys.executable} cli.py list | true", shell=True, cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["predcit"], "unknown command 'predcit'. Did you mean 'predict'"),
        (["choose", "--classes", "cat"], "--images is missing; see --help."),
        (["list", "method"], "unknown kind 'method'. Did you mean 'methods'"),
        (["test", "--config", "absent.yaml"], "absent.yaml"),
        (["test", *SCLIP, "--model.rule=sclop"], "unknown rule 'sclop'. Did you mean 'sclip'"),
        (["test", *SCLIP, "--model.protocol=sclop"], "unknown protocol 'sclop'"),
        (["test", *SCLIP, "--data.vocabulary=shapes14"], "unknown label space of Shapes 'shapes14'"),
        (["test", *SCLIP, "--model=TrainingFre"], "unknown method 'TrainingFre'. Did you mean 'TrainingFree'"),
        (["test", *SCLIP, "--data=Shape"], "unknown datamodule 'Shape'. Did you mean 'Shapes'"),
        (["test", *SCLIP, "--model.temprature=3"], "unknown option of TrainingFree 'temprature'. Known: clip, pretrained"),
        (["test", *SCLIP, "--data.pictuers={0: x}"], "an option that Shapes does not have was given a mapping with the key 0"),
        (["test", *SCLIP, "--trainr.max_steps=3"], "unknown option --trainr.max_steps=3; --help and --help_all list"),
        (["test", *SCLIP, "--ckpt_path", "absent.ckpt"], "'absent.ckpt' does not exist"),
        (["test", *SCLIP, "--data=VOC", "--data.root=/nowhere"], "where VOCdevkit/VOC2012 lies"),
        (["predict", *SCLIP, "--images", "/nowhere", "--classes", "cat", "--output", "runs"], "'/nowhere' does not exist"),
        (["predict", *SCLIP, "--images", "tests", "--classes", "cat", "--output", "runs"], "no pictures found in 'tests'"),
        (["predict", *SCLIP, "--images"], "--images needs a value"),
        (["predict", "--images", "tests"], '--classes is missing: say --classes "cat; dog'),
        (["predict", "--classes", "cat"], "--images is missing: say --images"),
        (["fit", *SCLIP], "TrainingFree needs no training; use test, predict or compare"),
        (["test", *SCLIP, "--trainer.precision=16-true", "--trainer.plugins=null", "--trainer.devices=0"], "devices"),
        (["compare", "--config", "absent.yaml"], "'absent.yaml' does not exist"),
        (["test", *SCLIP, "--data.pictures=0"], "pictures of Shapes is 0; it must be a whole number from 1 up"),
        (["test", *SCLIP, "--data.batch_size=-1"], "batch_size of Shapes is -1; it must be a whole number from 1 up"),
        (["test", *SCLIP, "--data.num_workers=-1"], "num_workers of Shapes is -1; it must be a whole number from 0 up"),
        (["test", *SCLIP, "--model.window_batch=0"], "window_batch of TrainingFree is 0; it must be a whole number"),
        (["fit", *PROBE, "--model.learning_rate=-1"], "learning_rate of LinearProbe is -1.0; it must be a number from 0 up"),
        (["test", *SCLIP, "--model.protocol_values={temperature: hot}"], "model.protocol_values: 'hot' is not a number."),
        (["test", *SCLIP, "--model.protocol_values={temprature: 4}"], "unknown rule of a protocol 'temprature'. Did you mean"),
        (["test", *SCLIP, "--data.pictures=two"], "data.pictures: 'two' is not a whole number."),
        (["test", *SCLIP, "--model.protocol_values=3"], "model.protocol_values: '3' is not a mapping"),
        (["test", *SCLIP, "--trainer.devices=many"], "devices is 'many'; it must be a whole number, a list"),
        (["test", *SCLIP, "--trainer.accelerator=tpux"], "unknown accelerator 'tpux'. Did you mean 'tpu'"),
        (["test", *SCLIP, "--trainer.strategy=foo"], "unknown strategy 'foo'. Known: auto, ddp"),
        (["test", *SCLIP, "--trainer.devices=9999", "--trainer.accelerator=cpu"], "9999 devices would be 9999 processes on"),
        (["compare", "--devices=9999"], "9999 devices would be 9999 processes on"),
        (["compare", "--devices=0"], "devices is 0; it must be a whole number from 1 up"),
        (["test"], "--model and --data are missing: give a config, such as --config configs/training_free/sclip.yaml"),
        (["test", "--model=TrainingFree"], "--data is missing: give a config"),
        (["list", "methods", "rules"], "list takes one kind, not 'methods rules'"),
    ],
)
def test_mistakes_get_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert message in fails(capsys, *arguments)


@pytest.mark.parametrize(
    ("classes", "message"),
    [("cat; cat", "duplicate classes"), (";", "class list is empty")],
)
def test_bad_classes(classes: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_pictures(tmp_path / "in")
    options = ["--images", str(tmp_path / "in"), "--classes", classes, "--output", str(tmp_path / "out")]
    assert message in fails(capsys, "predict", *SCLIP, *options)


@pytest.mark.parametrize("command", ["predict", "compare", "report"])
def test_a_mistake_leaves_no_empty_folder(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    voc = {"name": "b", "data": "VOC", "options": {"root": str(tmp_path / "absent")}, "protocol": "sclip"}
    plan = {"title": "t", "methods": [{"name": "m", "config": SCLIP[1]}], "benchmarks": [voc]}
    (tmp_path / "plan.yaml").write_text(json.dumps(plan))
    options = {
        "predict": [*SCLIP, "--images", str(tmp_path / "absent"), "--classes", "cat"],
        "compare": ["--config", str(tmp_path / "plan.yaml")],
        "report": [str(tmp_path / "absent")],
    }[command]
    fails(capsys, command, *options, "--output", str(tmp_path / "new" / "out"))
    assert [path.name for path in tmp_path.iterdir()] == ["plan.yaml"]
    (tmp_path / "old").mkdir()
    fails(capsys, command, *options, "--output", str(tmp_path / "old"))
    assert (tmp_path / "old").is_dir()


def test_an_output_that_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("in the way")
    line = fails(capsys, "test", *SCLIP, *SMALL, f"--trainer.default_root_dir={tmp_path / 'file'}")
    assert "is not writable" in line


def test_every_run_has_its_own_folder_and_configuration(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["test", *SCLIP, *SMALL, f"--trainer.default_root_dir={tmp_path}", "--model.rule=naclip"]) == 0
    (run,) = tmp_path.iterdir()
    config = yaml.safe_load((run / "config_test.yaml").read_text())
    assert config["model"]["init_args"]["rule"] == "naclip"
    metrics = json.loads((run / "test" / "metrics.json").read_text())
    assert metrics["pictures"] == 3
    assert metrics["miou_95"][0] <= metrics["miou"] <= metrics["miou_95"][1]
    assert len((run / "test" / "per_class.csv").read_text().splitlines()) == 14
    assert "mIoU" in capsys.readouterr().out


def test_print_config_is_a_config(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(["test", *SCLIP, "--print_config"])
    assert stop.value.code == 0
    assert yaml.safe_load(capsys.readouterr().out)["model"]["init_args"]["rule"] == "sclip"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint written by fit, with a rule and a protocol that are not the defaults."""
    folder = tmp_path_factory.mktemp("fit")
    options = ["--data.train_pictures=8", "--data.train_batch_size=4", "--trainer.max_steps=2", "--trainer.precision=32-true"]
    arguments = ["fit", "--config", "configs/pretrain/tiny_clip.yaml", *SMALL, *options, "--trainer.val_check_interval=2"]
    model = ["--model.rule=maskclip", "--model.protocol_values={temperature: 7}"]
    assert cli.main([*arguments, *model, f"--trainer.default_root_dir={folder}"]) == 0
    return next(folder.rglob("*.ckpt"))


def test_the_command_line_beats_the_checkpoint(trained: Path, tmp_path: Path) -> None:
    """Lightning 2.6 silently lets the checkpoint's hyper-parameters win."""
    base = ["test", "--ckpt_path", str(trained), "--data=Shapes", *SMALL]
    for options, rule in (([], "maskclip"), (["--model.rule=clip"], "clip")):
        folder = tmp_path / rule
        assert cli.main([*base, *options, f"--trainer.default_root_dir={folder}"]) == 0
        config = yaml.safe_load(next(folder.rglob("config_test.yaml")).read_text())
        assert config["model"]["class_path"].endswith("CaptionPretraining")
        assert config["model"]["init_args"]["rule"] == rule
        assert config["model"]["init_args"]["protocol_values"] == {"temperature": 7}
    assert next(trained.parents[1].glob("config_fit.yaml")).is_file()


def test_a_checkpoint_of_another_model(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--model=LinearProbe", f"--trainer.default_root_dir={tmp_path}", "--data=Shapes", *SMALL]
    message = fails(capsys, "test", "--ckpt_path", str(trained), *options)
    assert f"checkpoint '{trained}' is of another model: it is of CaptionPretraining, --model says LinearProbe" in message


def test_a_broken_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "half.ckpt").write_bytes(b"PK\x03\x04 and then the disk was full")
    assert "half.ckpt' cannot be read" in fails(capsys, "test", *SCLIP, "--ckpt_path", str(tmp_path / "half.ckpt"))


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"hyper_parameters": {"f": print}, "state_dict": {}}, tmp_path / "evil.ckpt")
    line = fails(capsys, "test", *SCLIP, "--ckpt_path", str(tmp_path / "evil.ckpt"))
    assert "evil.ckpt' is refused: beside weights it holds 'print'" in line
    assert "weights_only" not in line
    assert "trust" not in line


def test_a_help_shows_the_options_of_what_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["fit", "--help", "--config", "configs/zeroseg/shapes.yaml", "--data=VOC"]) == 0
    printed = capsys.readouterr().out
    for text in (
        "--model ZeroSeg, ",
        "--model.mask_ratio",
        "share of the patches hidden",
        "--model.window_batch",
        "--data.split",
    ):
        assert text in printed, text
    assert "--data.train_pictures" not in printed  # the config's Shapes, which the option replaces
    assert "--trainer.limit_val_batches" not in printed
    assert "--help_all" in printed
    assert cli.main(["test", "-h"]) == 0
    assert f"--model NAME: {', '.join(sorted(METHODS)[:3])}" in capsys.readouterr().out
    assert cli.main(["fit", "-h", "--config=configs/pretrain/tiny_clip.yaml"]) == 0
    assert "--model.tagging_steps" in capsys.readouterr().out
    assert "unknown method 'ZeroSge'. Did you mean 'ZeroSeg'" in fails(capsys, "fit", "-h", "--model=ZeroSge")
    with pytest.raises(SystemExit):
        cli.main(["fit", "--help_all"])
    assert "--trainer.limit_val_batches" in capsys.readouterr().out


def test_list_has_a_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["list", "--help"]) == 0
    assert capsys.readouterr().out.startswith("usage: zerolabel list [methods|rules|")


def test_a_folder_that_cannot_be_read_is_no_empty_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As root may read everything, the system is made to refuse."""
    make_pictures(tmp_path / "in")
    scandir = os.scandir

    def refusing(path: Any) -> Any:
        if str(path).endswith("below"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(UserError, match=r"folder '.*in/below' cannot be read: Permission denied"):
        find_images(tmp_path / "in")
    with pytest.raises(UserError, match=r"folder '.*in/below' cannot be read: Permission denied"):
        image_source(str(tmp_path / "in"))


def test_weights_that_need_a_network(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A name server that knows nothing; tests are offline otherwise, which is told by the same line with another reason."""

    def unknown(*args: Any, **kwargs: Any) -> Any:
        raise socket.gaierror(-2, "Name or service not known")

    vit = ["--config", "configs/backbones/clip_vit_b16.yaml"]
    monkeypatch.setenv("HF_HUB_CACHE", "/nowhere")
    monkeypatch.setattr(socket, "create_connection", unknown)
    monkeypatch.setattr(network.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(urllib.request, "getproxies", dict)
    network.why_unreachable.cache_clear()
    started = time.monotonic()
    line = fails(capsys, "test", *SCLIP, *vit)
    network.why_unreachable.cache_clear()
    assert time.monotonic() - started < 20
    assert "cannot load weights 'openai' into CLIP 'ViT-B-16': https://huggingface.co cannot be reached (Name or serv" in line
    assert "not in its cache" in line
    monkeypatch.setattr(network.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(network, "why_unreachable", str)
    assert "HF_HUB_OFFLINE is set, and they are not in the cache" in fails(capsys, "test", *SCLIP, *vit)


def test_a_logger_of_files_needs_no_folder(tmp_path: Path) -> None:
    """What the README says of TensorBoard: the option alone, and everything is in the run's folder."""
    options = [*SMALL, f"--trainer.default_root_dir={tmp_path}", "--trainer.logger=TensorBoardLogger"]
    assert cli.main(["test", *SCLIP, *options]) == 0
    (run,) = tmp_path.iterdir()
    assert run.name.startswith("test-")
    assert list(run.glob("events.out.tfevents.*"))
    assert (run / "config_test.yaml").is_file()


def test_the_progress_names_method_and_epoch(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """10 steps of 4 an epoch; going on after the seventh, the third of its epoch."""
    options = [*PROBE, "--data.train_pictures=32", "--data.train_batch_size=8", "--data.num_workers=0"]
    options += ["--trainer.accelerator=cpu", "--trainer.enable_checkpointing=true", f"--trainer.default_root_dir={tmp_path}"]
    for steps, last in ((7, "LinearProbe, epoch 2 of 2 .* 3/3 "), (10, "LinearProbe, epoch 3 of 3 .* 2/2 ")):
        assert cli.main(["fit", *options, f"--trainer.max_steps={steps}", "--ckpt_path=last"]) == 0
        printed = capsys.readouterr()
        assert re.search(last, printed.out), printed.out
        assert "Seed set" not in printed.err


def test_predict_writes_label_maps_overlays_and_json(tmp_path: Path) -> None:
    make_pictures(tmp_path / "in")
    options = [
        "--images",
        str(tmp_path / "in"),
        "--classes=red plain disc; grass, sand; sky",
        "--output",
        str(tmp_path / "out"),
    ]
    assert cli.main(["predict", *SCLIP, *options]) == 0
    out = tmp_path / "out"
    content = json.loads((out / "predictions.json").read_text())
    assert content["vocabulary"] == ["red plain disc", "grass", "sky"]
    assert [row["picture"] for row in content["pictures"]] == ["a.png", "below/grey.jpg", "cmyk.jpg"]
    for row in content["pictures"]:
        with Image.open(out / "labels" / f"{row['picture']}.png") as image:
            assert image.mode == "P"
            labels = np.asarray(image)
        assert list(labels.shape) == row["size"] == [40, 60]
        areas = {content["vocabulary"][k]: pytest.approx((labels == k).mean(), abs=1e-4) for k in np.unique(labels)}
        assert {name: entry["area"] for name, entry in row["classes"].items()} == areas
        assert all(1 / 4 <= entry["score"] <= 1 for entry in row["classes"].values())
        assert (out / "overlays" / f"{row['picture']}.png").is_file()


def test_an_unreadable_picture_is_named_and_the_others_are_done(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_pictures(tmp_path / "in")
    (tmp_path / "in" / "broken.jpg").write_bytes(b"\xff\xd8\xff no more")
    options = ["--images", str(tmp_path / "in"), "--classes", "cat; dog", "--output", str(tmp_path / "out")]
    assert cli.main(["predict", *SCLIP, *options]) == 2
    printed = capsys.readouterr().err
    assert "broken.jpg' cannot be read" in printed
    assert "1 of 4 pictures failed" in printed
    assert len(list((tmp_path / "out" / "labels").rglob("*.png"))) == 3


def test_a_single_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_pictures(tmp_path / "in")
    options = ["--images", str(tmp_path / "in" / "a.png"), "--classes", "cat; dog", "--output", str(tmp_path / "out")]
    assert cli.main(["predict", *SCLIP, *options]) == 0
    assert (tmp_path / "out" / "labels" / "a.png.png").is_file()
    assert "on photographs its labels are wrong" in capsys.readouterr().out


def test_an_error_in_a_loader_worker_is_one_line_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = make_voc(tmp_path)
    picture = tmp_path / "VOCdevkit" / "VOC2012" / "JPEGImages" / "2007_000001.jpg"
    picture.write_bytes(picture.read_bytes()[:900])
    run = [f"--data.root={options['root']}", f"--trainer.default_root_dir={tmp_path}", "--trainer.enable_progress_bar=false"]
    line = fails(capsys, "test", *SCLIP, "--data=VOC", "--data.num_workers=1", *run)
    assert line.startswith(f"error: picture '{picture}' cannot be read: ")


def test_a_mask_of_another_size_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_voc(tmp_path)
    mask = tmp_path / "VOCdevkit/VOC2012/SegmentationClass/2007_000001.png"
    Image.fromarray(np.zeros((5, 5), np.uint8)).save(mask)
    options = ["--data=VOC", f"--data.root={tmp_path}", f"--trainer.default_root_dir={tmp_path / 'runs'}"]
    line = fails(capsys, "test", *SCLIP, *options, "--data.num_workers=0", "--trainer.enable_progress_bar=false")
    assert "2007_000001.png' is (5, 5) but its picture is (90, 64)" in line


def test_two_processes_count_each_picture_once(tmp_path: Path) -> None:
    """Five pictures on two processes: the same numbers, bit for bit, as on one."""
    found = []
    for devices in (1, 2):
        folder = tmp_path / str(devices)
        options = ["--data.pictures=5", "--data.num_workers=0", f"--trainer.devices={devices}", "--trainer.accelerator=cpu"]
        written = [f"--trainer.default_root_dir={folder}", "--trainer.enable_progress_bar=false"]
        strategy = ["--trainer.strategy=ddp"] if devices == 2 else []
        processes.run("cli.py", "test", *SCLIP, *options, *written, *strategy, ranks=devices)
        found.append(json.loads(next(folder.rglob("metrics.json")).read_text()))
    assert found[0]["pictures"] == 5
    assert found[0] == found[1]


@pytest.mark.parametrize(("capabilities", "noted"), [({"avx2": True, "amx_bf16": False}, True), ({"avx512_bf16": True}, False)])
def test_bf16_on_a_cpu_that_has_none_is_noted(
    capabilities: dict[str, bool], noted: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    note_emulated_precision("cpu", "bf16-mixed")
    assert ("'bf16-mixed' is 4 to 8 times slower here than 32-true" in capsys.readouterr().err) == noted
    note_emulated_precision("auto", "32-true")
    assert not capsys.readouterr().err
