"""A fit that was stopped anywhere goes on as if nothing had happened; checkpoints are whole or absent."""

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import Callback

import cli
from common.errors import UserError
from common.registry import subclasses_below
from methods import METHODS, Segmenter, pretraining
from methods.supervision import Supervision
from reporting.checkpoints import AtomicCheckpointIO, PeriodicCheckpoint, last_checkpoint
from tests.contract.test_contract import SHAPES, shapes, trainer, trains
from tests.processes import Started, run

STEPS = 5  # of three an epoch
PRETRAINING = subclasses_below(pretraining.__name__, pretraining.__path__, Segmenter)
LEARNERS = {name: method for name, method in (METHODS | PRETRAINING).items() if trains(method)}


class Losses(Callback):
    """What was logged at each step."""

    def __init__(self) -> None:
        self.of_step: dict[int, dict[str, float]] = {}

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        self.of_step[trainer.global_step] = {k: float(v) for k, v in trainer.callback_metrics.items() if "train" in k}


def fit(
    folder: Path, method: type[Segmenter], workers: int, resume: Path | None = None, steps: int = STEPS, batch: int = 2
) -> tuple[dict[str, torch.Tensor], dict[int, dict[str, float]]]:
    """The weights after all steps and what was logged; all checkpoints are kept in ``folder``."""
    lightning.seed_everything(1)
    data = shapes(method)
    for part in (data, getattr(data, "scored_on", None)):
        if part is not None:
            part.train_pictures, part.maps, part.train_batch_size, part.num_workers = 3 * batch, 3 * batch, batch, workers
    losses = Losses()
    model = method()
    if resume is not None:
        torch.manual_seed(1234)  # another process's state
        torch.rand(5)
    fitting = trainer(
        folder,
        max_steps=steps,
        limit_val_batches=0,
        enable_checkpointing=True,
        callbacks=[losses, PeriodicCheckpoint(1, -1, str(folder))],
        plugins=[AtomicCheckpointIO()],
    )
    fitting.fit(model, data, ckpt_path=resume, weights_only=True)
    return {k: v.clone() for k, v in model.state_dict().items()}, losses.of_step


@pytest.mark.parametrize("name", LEARNERS)
def test_going_on_is_as_if_nothing_had_happened(name: str, tmp_path: Path) -> None:
    whole, losses = fit(tmp_path / "whole", LEARNERS[name], 0)
    assert list(losses) == list(range(1, STEPS + 1))
    for step in (2, 3):  # in mid-epoch, at its end
        again, went_on = fit(tmp_path / "again", LEARNERS[name], 0, tmp_path / "whole" / f"step={step}.ckpt")
        assert list(went_on) == list(range(step + 1, STEPS + 1))
        assert went_on == {k: v for k, v in losses.items() if k > step}
        assert all(torch.equal(again[key], value) for key, value in whole.items())


@pytest.mark.parametrize("name", ["IFSeg", "ZeroSeg"])
def test_going_on_with_workers(name: str, tmp_path: Path) -> None:
    whole, losses = fit(tmp_path / "whole", LEARNERS[name], 2)
    again, went_on = fit(tmp_path / "again", LEARNERS[name], 2, tmp_path / "whole" / "step=4.ckpt")
    assert went_on == {STEPS: losses[STEPS]}
    assert all(torch.equal(again[key], value) for key, value in whole.items())
    none, same = fit(tmp_path / "none", LEARNERS[name], 0)
    assert same == losses
    assert all(torch.equal(none[key], value) for key, value in whole.items())


def command(folder: Path, *options: str) -> list[str]:
    """A fit of some seconds, with a checkpoint after every step."""
    return [
        *("fit", "--config", "configs/oracle/linear_probe.yaml", f"--trainer.default_root_dir={folder}"),
        *("--trainer.max_steps=60", "--trainer.limit_val_batches=0", "--trainer.enable_progress_bar=false"),
        *("--trainer.enable_checkpointing=true", "--trainer.enable_model_summary=false"),
        *("--trainer.callbacks+=reporting.checkpoints.PeriodicCheckpoint", "--trainer.callbacks.every_n_train_steps=1"),
        *("--data.train_pictures=24", "--data.train_batch_size=4", "--data.num_workers=0", *options),
    ]


def final(folder: Path) -> dict[str, torch.Tensor]:
    last = last_checkpoint(folder)
    assert last is not None
    state: dict[str, torch.Tensor] = torch.load(last, weights_only=True)["state_dict"]
    return state


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGKILL, -9), (signal.SIGTERM, 143)])
def test_a_killed_fit_goes_on(sent: signal.Signals, code: int, tmp_path: Path) -> None:
    assert cli.main(command(tmp_path / "whole")) == 0
    killed = Started("cli.py", *command(tmp_path / "killed"))
    while (found := last_checkpoint(tmp_path / "killed")) is None or "step=1.ckpt" in found.name:
        assert killed.poll() is None
        time.sleep(0.01)
    killed.send_signal(sent)
    assert killed.wait(60) == code
    stopped = last_checkpoint(tmp_path / "killed")
    assert stopped is not None
    assert stopped.name != "step=60.ckpt"
    if sent is signal.SIGTERM:
        assert "stopped by SIGTERM; go on with --ckpt_path last" in killed.stderr
    time.sleep(1)  # run folders are named by the second
    assert cli.main(command(tmp_path / "killed", "--ckpt_path=last")) == 0
    whole, again = final(tmp_path / "whole"), final(tmp_path / "killed")
    assert all(torch.equal(again[key], value) for key, value in whole.items())


def test_two_processes_go_on(tmp_path: Path) -> None:
    """Started by Lightning first, and then as torchrun does."""
    options = [
        *("fit", "--config", "configs/ifseg/shapes.yaml", "--trainer.devices=2", "--trainer.strategy=ddp"),
        *("--trainer.max_steps=5", "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"),
        *("--trainer.accelerator=cpu", "--trainer.callbacks+=reporting.checkpoints.PeriodicCheckpoint"),
        *("--trainer.callbacks.every_n_train_steps=1", "--trainer.callbacks.save_top_k=-1"),
        *("--data.maps=24", "--data.train_batch_size=4", "--data.num_workers=0"),
    ]
    command = [sys.executable, "cli.py", *options, f"--trainer.default_root_dir={tmp_path / 'whole'}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    (second,) = (tmp_path / "whole").glob("*/checkpoints/step=2.ckpt")
    run("cli.py", *options, f"--trainer.default_root_dir={tmp_path / 'again'}", f"--ckpt_path={second}", ranks=2)
    whole, again = final(tmp_path / "whole"), final(tmp_path / "again")
    assert all(torch.equal(again[key], value) for key, value in whole.items())
    written = sorted(file.name for file in (tmp_path / "again").glob("*/checkpoints/step=*.ckpt"))
    assert written == ["step=3.ckpt", "step=4.ckpt", "step=5.ckpt"]


def test_last_without_a_run_starts_anew(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(command(tmp_path, "--ckpt_path=last", "--trainer.max_steps=1")) == 0
    assert f"no checkpoint of LinearProbe under '{tmp_path}' yet: starting anew" in capsys.readouterr().out


def test_a_full_disk_leaves_the_last_good_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    save, calls = torch.save, []

    def full(content: Any, file: Any, *rest: Any, **options: Any) -> None:
        calls.append(file)
        save({"half": 1}, file)
        if len(calls) > 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        save(content, file, *rest, **options)

    monkeypatch.setattr(torch, "save", full)
    assert cli.main(command(tmp_path)) == 2
    assert "No space left on device" in (message := capsys.readouterr().err)
    assert "step=4.ckpt' could not be written" in message
    assert "--ckpt_path last" in message
    monkeypatch.undo()
    (folder,) = tmp_path.glob("*/checkpoints")
    assert sorted(file.name for file in folder.iterdir()) == ["last.ckpt", "step=2.ckpt", "step=3.ckpt"]
    assert torch.load(folder / "last.ckpt", weights_only=True)["global_step"] == 3


def test_a_truncated_checkpoint_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(command(tmp_path, "--trainer.max_steps=2")) == 0
    last = last_checkpoint(tmp_path)
    assert last is not None
    last.write_bytes(last.read_bytes()[:1000])
    assert cli.main(command(tmp_path, "--ckpt_path=last")) == 2
    assert f"checkpoint '{last}' cannot be read" in (message := capsys.readouterr().err)
    assert "step=1.ckpt" in message


def test_a_checkpoint_that_a_run_is_replacing_is_passed_over(tmp_path: Path) -> None:
    (folder := tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (folder / "last.ckpt").symlink_to("step=2.ckpt")
    assert last_checkpoint(tmp_path) is None
    torch.save({"state_dict": {}}, folder / "step=1.ckpt")
    assert last_checkpoint(tmp_path) == folder / "step=1.ckpt"


def test_the_last_checkpoint_is_the_methods_own_wherever_its_logger_puts_it(tmp_path: Path) -> None:
    places = {"IFSeg": "lightning_logs/uml65oy2", "FreeSeg": "fit-1", "": "fit-2"}  # the first: W&B's
    files = {method: tmp_path / place / "checkpoints" / "step=1.ckpt" for method, place in places.items()}
    for second, (method, file) in enumerate(files.items()):
        file.parent.mkdir(parents=True)
        torch.save({"hyper_parameters": {"_class_path": f"methods.{method}"} if method else {}}, file)
        os.utime(file, (second, second))
    assert last_checkpoint(tmp_path, "ZeroSeg") == last_checkpoint(tmp_path) == files[""]  # made in Python: it may be any
    files[""].unlink()
    assert last_checkpoint(tmp_path) == last_checkpoint(tmp_path, "FreeSeg") == files["FreeSeg"]
    assert last_checkpoint(tmp_path, "IFSeg") == files["IFSeg"]
    assert last_checkpoint(tmp_path, "ZeroSeg") is None


def test_learners_of_every_kind_are_tried() -> None:
    assert {LEARNERS[name].sees for name in LEARNERS} >= {Supervision.NAMES, Supervision.PICTURES, Supervision.MASKS}
    assert SHAPES["train_batch_size"] * 3 == 12
    with pytest.raises(UserError, match="could not be written"):
        AtomicCheckpointIO().save_checkpoint({}, "/proc/none/x.ckpt")
