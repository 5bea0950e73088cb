"""Rows in processes of their own: what becomes of them when one is stopped or killed."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from common.errors import UserError
from reporting.jobs import Answer, groups, side_by_side
from reporting.plan import Comparison, MethodEntry
from tests.processes import Started


def row(name: str, config: str, fit: bool = False, after: str | None = None) -> MethodEntry:
    return MethodEntry(name, config, fit=fit, after=after)


def test_rows_that_may_share_a_training_are_measured_together() -> None:
    rows = [row("a", "x"), row("b", "y", True), row("c", "x"), row("d", "y", True)]
    rows += [row("e", "z", after="b"), row("f", "w", True)]
    assert groups(Comparison("", rows, [])) == [[1, 3, 4], [5], [0], [2]]


def dying(folder: str) -> Callable[[list[int]], Answer]:
    """The first row ends its process once the second, which sleeps for a minute, has begun."""

    def measure(rows: list[int]) -> Answer:
        Path(folder, str(rows[0])).write_text(str(os.getpid()))
        while not Path(folder, "1").exists():
            time.sleep(0.02)
        if rows == [0]:
            os._exit(1)
        time.sleep(60)
        return []

    return measure


def test_a_killed_process_is_told_and_ends_the_others(tmp_path: Path) -> None:
    plan = Comparison("", [row("a", "x"), row("b", "y")], [])
    with pytest.raises(UserError, match="one of 2 processes ended, most often for want of memory"):
        list(side_by_side(plan, 2, dying, str(tmp_path)))
    assert_gone(int((tmp_path / "1").read_text()))


def assert_gone(pid: int) -> None:
    for _ in range(100):
        status = Path(f"/proc/{pid}/status")
        if not status.exists() or "State:\tZ" in status.read_text():
            return
        time.sleep(0.1)
    raise AssertionError(f"process {pid} is still there")


@pytest.mark.parametrize(("sent", "code", "name"), [(signal.SIGINT, 130, "Ctrl-C"), (signal.SIGTERM, 143, "SIGTERM")])
def test_stopped_by_a_signal(sent: signal.Signals, code: int, name: str, tmp_path: Path) -> None:
    """As a terminal sends it, to all processes; and as a batch system does, to the first."""
    plan = tmp_path / "plan.yaml"
    objects = "{name: objects, data: Shapes, options: {pictures: 4}, protocol: shapes}"
    fits = "{name: probe, config: configs/oracle/linear_probe.yaml, fit: true, set: {trainer.max_steps: 100000}}"
    plan.write_text(f"title: long\nmethods: [{fits}]\nbenchmarks: [{objects}]\n")
    run = Started("cli.py", "compare", "--config", str(plan), "--output", str(tmp_path / "out"), "--jobs", "2")
    run.says("(training LinearProbe)")
    (os.killpg if sent is signal.SIGINT else os.kill)(run.pid, sent)
    assert run.wait(30) == code
    assert run.stderr.strip().splitlines()[-1] == f"stopped by {name}; finished results are kept, the same command goes on"
    assert "Traceback" not in run.stderr
