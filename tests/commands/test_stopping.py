"""Ctrl-C and SIGTERM at any moment: one line, 130 or 143; ranks do not outlive the first; too many are never started."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from commands.checks import PROCESSES_PER_CORE, check_processes
from common.errors import UserError
from methods import METHODS
from tests.contract.test_resume import command
from tests.processes import Started

RANK = """
import os, sys, time
from common import stopping
stopping.GRACE = 0.1
stopping.end_with_first()
print("up", flush=True)
time.sleep(60)
"""
FIRST = """
import os, subprocess, sys
rank = subprocess.Popen([sys.executable, "-c", sys.argv[1]], env=os.environ | {"LOCAL_RANK": "1"}, stdout=subprocess.PIPE)
rank.stdout.readline()
print(rank.pid, flush=True)
"""


def let_fit_wait() -> None:
    def wait(self: Any, images: Any, workers: int) -> None:
        print("waiting", flush=True)
        time.sleep(60)

    setattr(METHODS["LinearProbe"], "prepare_fit", wait)  # noqa: B010 (a class like any other to the type checker)


@pytest.mark.parametrize(("sent", "code", "name"), [(signal.SIGINT, 130, "Ctrl-C"), (signal.SIGTERM, 143, "SIGTERM")])
def test_before_training(sent: signal.Signals, code: int, name: str, tmp_path: Path) -> None:
    """While views are embedded or masks mined, which takes hours where there are many pictures."""
    options = ["fit", "--config=configs/oracle/linear_probe.yaml", f"--trainer.default_root_dir={tmp_path}"]
    options += ["--data.num_workers=0", "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
    run = Started("cli.py", *options, before=let_fit_wait)
    run.says("(waiting)\n")
    run.send_signal(sent)
    assert run.wait(30) == code
    assert run.stderr.strip() == f"stopped by {name}; go on with --ckpt_path last"


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_while_it_imports(sent: signal.Signals, code: int, tmp_path: Path) -> None:
    run = subprocess.Popen(
        [sys.executable, "cli.py", "list"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"ZEROLABEL_CACHE": str(tmp_path)},  # with an answer from before it would import nothing
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # tests in the background inherit that it is ignored
    )
    maps = Path(f"/proc/{run.pid}/maps")
    while "libtorch" not in maps.read_text():
        assert run.poll() is None, run.stderr
        time.sleep(0.02)
    run.send_signal(sent)
    _, errors = run.communicate(timeout=30)
    assert run.returncode == code, errors
    assert len(errors.strip().splitlines()) == 1


def test_ctrl_c_in_training(tmp_path: Path) -> None:
    run = Started("cli.py", *command(tmp_path, "--trainer.max_steps=4000", "--data.num_workers=1"))
    while not list(tmp_path.glob("*/checkpoints/*.ckpt")):
        assert run.poll() is None, run.stderr
        time.sleep(0.1)
    os.killpg(run.pid, signal.SIGINT)  # a terminal sends it to the loader processes, too
    assert run.wait(30) == 130
    assert run.stderr.strip().splitlines() == ["stopped by Ctrl-C; go on with --ckpt_path last"]


def test_a_rank_ends_when_the_first_is_gone() -> None:
    """The first process ends, and the one that it started would sleep for a minute."""
    first = subprocess.run([sys.executable, "-c", FIRST, RANK], capture_output=True, text=True, timeout=60, check=True)
    pid, gone = int(first.stdout), time.monotonic() + 10
    while Path(f"/proc/{pid}").exists() and "State:\tZ" not in Path(f"/proc/{pid}/status").read_text():
        assert time.monotonic() < gone
        time.sleep(0.1)
    assert "another process of this run ended (the first)" in first.stderr


@pytest.mark.parametrize(
    ("devices", "cores", "refused"),
    [(99, 2, True), ("99", 2, True), (9, 2, True), (8, 2, False), (1, 1, False), ("auto", 2, False), (99, 64, False)],
)
def test_processes_that_the_cores_cannot_bear_are_refused(devices: object, cores: int, refused: bool) -> None:
    if not refused:
        check_processes(devices, cores)
        return
    with pytest.raises(UserError, match=rf"{devices} devices would be {devices} processes on 2 CPU cores.* at most 8;"):
        check_processes(devices, cores)
    assert PROCESSES_PER_CORE * cores == 8
