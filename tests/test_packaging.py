"""Wheel and sdist: built offline as ``python -m build`` does, whole, and at work in another folder than the checkout's."""

import json
import os
import shlex
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest

import reporting.result
from common import __version__
from common.files import shipped
from tests.conftest import ROOT

BUILD = """
import sys
from setuptools import build_meta
build_meta.build_sdist(sys.argv[1])
"""
PACKAGES = ("backbones", "commands", "common", "configs", "datamodules", "evaluation", "methods", "reporting")


def in_folder(folder: Path, *command: str, **variables: str) -> str:
    environment = os.environ | {"PYTHONSAFEPATH": "1"} | variables
    done = subprocess.run(
        [sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def source_files() -> set[str]:
    """What belongs into the sdist: what git knows, or, in an unpacked sdist, its own list."""
    if (ROOT / ".git").exists():
        git = subprocess.run(["git", "-C", str(ROOT), "ls-files"], capture_output=True, text=True, check=True)
        listed = git.stdout.splitlines()
    else:
        listed = (ROOT / "zerolabel.egg-info" / "SOURCES.txt").read_text().splitlines()
    return {name for name in listed if (ROOT / name).is_file()} - {".gitignore"}


def modules_at_the_top() -> set[str]:
    return {name for name in source_files() if name.endswith(".py") and "/" not in name}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist made from a copy of the sources, and the wheel made from the unpacked sdist."""
    if find_spec("setuptools") is None:
        pytest.skip("setuptools is not installed: pip install -e '.[dev]'")
    out = tmp_path_factory.mktemp("built")
    copy = out / "copy"
    for name in source_files():
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_bytes((ROOT / name).read_bytes())
    in_folder(copy, "-c", BUILD, str(out))
    (sdist,) = out.glob("*.tar.gz")
    with tarfile.open(sdist) as file:
        file.extractall(out, filter="data")
    in_folder(out / sdist.name.removesuffix(".tar.gz"), "-c", BUILD.replace("sdist", "wheel"), str(out))
    return out


@pytest.fixture(scope="module")
def installed(built: Path) -> Path:
    """The wheel unpacked, as pip would; with PYTHONPATH it comes before the editable installation."""
    (wheel,) = built.glob("*.whl")
    target = built / "target"
    with zipfile.ZipFile(wheel) as file:
        file.extractall(target)
    return target


def test_the_sdist_holds_every_source(built: Path) -> None:
    with tarfile.open(next(built.glob("*.tar.gz"))) as file:
        held = {name.partition("/")[2] for name in file.getnames()}
    assert source_files() <= held


def test_the_wheel_holds_all_modules_and_their_data(installed: Path) -> None:
    needed = {name for name in source_files() if name.startswith(PACKAGES) and "/" in name}
    needed |= modules_at_the_top()
    held = {str(path.relative_to(installed)) for path in installed.rglob("*") if path.is_file()}
    assert needed <= held
    assert not [name for name in held if name.startswith(("tests", "docs", "benchmarks"))]


def test_the_installed_wheel_works_in_any_folder(installed: Path, tmp_path: Path) -> None:
    """In one process, for importing torch takes seconds: list, a test with a shipped config, the default comparison's plan."""
    code = """
import cli, commands.compare
from pathlib import Path
from reporting.plan import read_plan
from common.files import shipped
assert Path(cli.__file__).parent == Path(TARGET), cli.__file__
assert cli.main(["list"]) == 0
options = ["--data.pictures=2", "--data.num_workers=0", "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"]
assert cli.main(["test", "--config", "configs/training_free/sclip.yaml", *options]) == 0
plan = read_plan(Path(shipped("configs/compare/shapes.yaml")), commands.compare.parse_plan)
assert [type(commands.compare.CommandLineBuilder().method(m, 0)[0]).__name__ for m in plan.methods[:2]] == ["TrainingFree"] * 2
"""
    printed = in_folder(tmp_path, "-c", code.replace("TARGET", repr(str(installed))), PYTHONPATH=str(installed))
    assert "TrainingFree" in printed
    (run,) = (tmp_path / "runs").iterdir()
    assert json.loads((run / "test" / "metrics.json").read_text())["pictures"] == 2
    assert json.loads((run / "environment.json").read_text())["commit"] == f"release {__version__}"


def test_shipped_names_are_found_and_own_files_win(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    name = "configs/training_free/sclip.yaml"
    assert shipped(name) == str(ROOT / name)
    assert shipped("configs/absent.yaml") == "configs/absent.yaml"
    assert shipped("pyproject.toml") == "pyproject.toml"  # configs only
    (tmp_path / name).parent.mkdir(parents=True)
    (tmp_path / name).write_text("mine")
    assert shipped(name) == name


def test_another_repository_around_it_is_not_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A virtual environment inside somebody's repository, and a machine without git."""
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    monkeypatch.setattr(reporting.result, "ROOT", tmp_path / "site-packages")
    assert reporting.result.commit.__wrapped__() == f"release {__version__}"
    monkeypatch.setattr(reporting.result, "ROOT", tmp_path)
    assert reporting.result.commit.__wrapped__() == "unknown"
    monkeypatch.setenv("PATH", "")
    assert reporting.result.commit.__wrapped__() == f"release {__version__}"


def test_the_container_copies_what_is_there() -> None:
    """No image can be built here, so at least every COPY source exists, and all that the wheel needs is copied."""
    commands = [shlex.split(line) for line in (ROOT / "Containerfile").read_text().splitlines() if line.startswith("COPY ")]
    copied = {str(path.relative_to(ROOT)) for command in commands for source in command[1:-1] for path in ROOT.glob(source)}
    assert all(any(ROOT.glob(source)) for command in commands for source in command[1:-1])
    needed = {*PACKAGES, *modules_at_the_top(), "README.md", "LICENSE", "pyproject.toml", "constraints.txt"}
    assert needed <= copied
    assert not copied & set((ROOT / ".dockerignore").read_text().split())


def test_the_extra_dev_is_the_dependency_group_dev() -> None:
    """``make`` installs the extra, which older pips know; the group is for the newer."""
    content = tomllib.loads((ROOT / "pyproject.toml").read_text())
    groups = content["dependency-groups"]
    grouped = [requirement for included in groups["dev"] for requirement in groups[included["include-group"]]]
    extra = content["project"]["optional-dependencies"]["dev"]
    assert sorted(extra) == sorted(["zerolabel[photographs]", *grouped])
