"""Rows in processes of their own: the same table; and what becomes of them when one fails, is stopped or killed."""

import csv
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

import cli
from commands.compare import CommandLineBuilder
from common.errors import UserError
from reporting.jobs import Answer, groups, side_by_side
from reporting.measuring import Measuring
from reporting.plan import BenchmarkEntry, Comparison, MethodEntry
from tests.processes import Started
from tests.reporting.test_compare import OBJECTS, PLAN


def row(name: str, config: str = "", fit: bool = False, after: str | None = None, **chosen: Any) -> MethodEntry:
    return MethodEntry(name, config, {f"model.{option}": value for option, value in chosen.items()}, fit=fit, after=after)


def test_rows_that_share_a_training_are_measured_together() -> None:
    rows = [row("a"), row("b", fit=True), row("c"), row("d", fit=True)]
    rows += [row("e", fit=True, after="b"), row("f", fit=True)]
    assert groups(Comparison("", rows, []), {"b": {"x": 1}, "d": {"x": 1}, "f": {"x": 2}}) == [[1, 3, 4], [5], [0], [2]]


def test_rows_share_a_training_where_only_its_reading_differs(tmp_path: Path) -> None:
    """Two rates are two trainings, which can go on side by side though their config is the same."""
    plain, probe = "configs/ifseg/shapes.yaml", "configs/oracle/linear_probe.yaml"
    rows = [row("a", plain, True), row("b", plain, True, interpolation=0.8), row("c", plain, True, learning_rate=1e-4)]
    rows += [row("d", plain, True, learning_rate=1e-4, interpolation=0.5), row("e", probe, True)]
    measuring = Measuring(Comparison("", rows, [BenchmarkEntry(**OBJECTS)]), tmp_path, CommandLineBuilder(), 1)
    assert groups(measuring.plan, measuring.check()) == [[0, 1], [2, 3], [4]]


def test_rows_at_a_time_give_the_same_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = {"trainer.max_steps": 2, "data.train_pictures": 8, "data.train_batch_size": 4, "data.num_workers": 1}
    zeroseg = {"name": "ZeroSeg", "config": "configs/zeroseg/shapes.yaml", "fit": True, "set": small}
    plan = PLAN | {"seeds": [0], "methods": [*PLAN["methods"], zeroseg]}  # type: ignore[misc]
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(plan))
    command = ["compare", "--config", str(tmp_path / "plan.yaml"), "--output"]
    found = []
    for jobs in "12":
        assert cli.main([*command, str(tmp_path / jobs), "--jobs", jobs]) == 0
        rows = list(csv.DictReader((tmp_path / jobs / "results.csv").open()))
        found.append([(row["method"], row["miou"], row["weights"]) for row in rows])
        assert (tmp_path / jobs / "report.html").exists()
    assert found[0] == found[1]
    capsys.readouterr()
    assert cli.main([*command, str(tmp_path / "2")]) == 0
    assert capsys.readouterr().out.count("kept from before") == 3
    assert cli.main([*command, str(tmp_path / "3"), "--jobs", "2", "--devices", "2"]) == 2
    assert "--jobs 2 and --devices 2" in capsys.readouterr().err


def test_the_first_error_of_rows_at_a_time_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Though another row would train for hours."""
    small = {"data.train_pictures": 8, "data.train_batch_size": 4, "data.num_workers": 0}
    short = small | {"trainer.max_steps": 1, "trainer.default_root_dir": str(tmp_path)}
    iclip = {"name": "ICLIP", "config": "configs/freeseg/iclip_shapes.yaml", "fit": True, "set": short}
    elsewhere = {"model.rule": "maskclip", "model.iclip": str(tmp_path / "absent.safetensors")}
    its_map = {"name": "its map", "config": "configs/freeseg/map_shapes.yaml", "after": "ICLIP", "set": elsewhere}
    long = {"name": "long", "config": "configs/oracle/linear_probe.yaml", "fit": True}
    long |= {"set": small | {"trainer.max_steps": 10**6}}
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(PLAN | {"seeds": [0], "methods": [iclip, its_map, long]}))
    command = ["compare", "--config", str(tmp_path / "plan.yaml"), "--output", str(tmp_path / "out"), "--jobs", "2"]
    assert cli.main(command) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert "absent.safetensors" in line
    for _ in range(100):
        if not (left := multiprocessing.active_children()):
            break
        time.sleep(0.1)
    assert not left


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
    with pytest.raises(UserError, match="one of 2 processes ended, most often for want of memory"):
        list(side_by_side([[0], [1]], 2, dying, str(tmp_path)))
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
