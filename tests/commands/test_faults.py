"""What breaks in the middle of a run: the user gets one line, and nothing that was done is lost."""

import multiprocessing
import os
import signal
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.callbacks import Callback

import cli
from commands.errors import plain_errors
from common.errors import UserError
from common.stopping import Terminated
from reporting.checkpoints import last_checkpoint
from tests.contract.test_resume import command
from tests.processes import Started

MINUTE = 60.0


class KillWorker(Callback):
    """Ends a loader process in the middle of an epoch, as a machine out of memory does."""

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == 3:
            workers = multiprocessing.active_children()
            assert workers
            os.kill(workers[0].pid or 0, signal.SIGKILL)


def test_a_killed_loader_process_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = command(tmp_path, "--data.num_workers=1", "--trainer.callbacks+=tests.commands.test_faults.KillWorker")
    assert cli.main(options) == 2
    assert "error: a loader process ended (" in (message := capsys.readouterr().err)
    assert "--ckpt_path last" in message
    assert last_checkpoint(tmp_path) is not None
    assert cli.main(command(tmp_path, "--ckpt_path=last", "--trainer.max_steps=6")) == 0


@pytest.mark.parametrize("error", [ConnectionResetError("reset"), EOFError(), FileNotFoundError("no such socket")])
def test_nor_is_it_a_traceback_when_it_was_handing_a_batch_over(error: Exception) -> None:
    def _try_get_data() -> None:  # as torch's loader calls it
        raise error

    with pytest.raises(UserError, match="a loader process ended"), plain_errors():
        _try_get_data()
    with pytest.raises(type(error)), plain_errors():
        raise type(error)("of something else")


@pytest.mark.parametrize(("stopped", "code", "name"), [(KeyboardInterrupt, 130, "Ctrl-C"), (Terminated, 143, "SIGTERM")])
@pytest.mark.parametrize("around", [plain_errors, nullcontext], ids=["fit", "compare"])
def test_a_loader_process_that_the_same_ctrl_c_ended_is_no_fault(
    around: Any, stopped: type, code: int, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Seen once in CI: torch's word of the dead process came while Lightning was handling the Ctrl-C."""

    def run(_name: str, _arguments: list[str]) -> int:
        error = RuntimeError("DataLoader worker (pid 7) exited unexpectedly with exit code 1.")
        error.__context__ = stopped()
        with around():
            raise error

    monkeypatch.setattr(cli, "run", run)
    assert cli.main(["fit"]) == code
    assert capsys.readouterr().err.strip() == f"stopped by {name}; go on with --ckpt_path last"


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.parametrize("victim", ["first", "second"])
def test_when_a_process_dies_the_others_stop_within_a_minute(victim: str, tmp_path: Path) -> None:
    options = [*command(tmp_path), "--trainer.devices=2", "--trainer.strategy=ddp", "--trainer.accelerator=cpu"]
    options += ["--trainer.max_steps=4000"]
    first = Started("cli.py", *options)
    while (found := last_checkpoint(tmp_path)) is None or "step=1.ckpt" in found.name:
        assert first.poll() is None, first.stderr
        time.sleep(0.1)
    (second,) = [child for child in children(first.pid) if b"LOCAL_RANK=1" in Path(f"/proc/{child}/environ").read_bytes()]
    os.kill(first.pid if victim == "first" else second, signal.SIGKILL)
    killed = time.monotonic()
    assert first.wait(MINUTE) != 0
    while Path(f"/proc/{second}").exists():
        assert time.monotonic() - killed < MINUTE
        time.sleep(0.1)
    assert "another process of this run ended" in first.stderr
    assert last_checkpoint(tmp_path) is not None
