"""The documentation does what it says: links lead somewhere, examples run."""

import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

import cli
import methods
from tests.conftest import ROOT
from tests.contract import test_contract

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", (ROOT / "docs" / page).read_text(), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text())
    missing = [t for t in targets if not t.startswith(("http://", "https://")) and not (page.parent / t).exists()]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_named_configs_are_shipped(page: Path) -> None:
    """The example of adding a method is the one config that is named and not there."""
    named = set(re.findall(r"configs/[\w/]+\.yaml", page.read_text())) - {"configs/colour_words.yaml"}
    assert not [name for name in named if not (ROOT / name).is_file()]


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs" / "README.md").read_text()
    assert all(f"]({path.name})" in index for path in (ROOT / "docs").glob("*.md") if path.name != "README.md")


@pytest.fixture
def example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The page's method as a module of ``methods``, and its config."""
    (code,), (config,) = blocks("adding_a_method.md", "python"), blocks("adding_a_method.md", "yaml")
    (tmp_path / "colour_words.py").write_text(code)
    (tmp_path / "colour_words.yaml").write_text(config)
    monkeypatch.setattr(methods, "__path__", [*methods.__path__, str(tmp_path)])
    return tmp_path


def test_the_example_of_adding_a_method(example: Path) -> None:
    """It is scored by the command line, and is more than background everywhere (mIoU 6 %)."""
    method = importlib.import_module("methods.colour_words").ColourWords
    options = ["--data.pictures=2", "--data.num_workers=0", "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"]
    config = ["--config", str(example / "colour_words.yaml"), f"--trainer.default_root_dir={example / 'runs'}"]
    assert cli.main(["test", *config, *options]) == 0
    metrics = json.loads(next(example.rglob("metrics.json")).read_text())
    assert metrics["pictures"] == 2
    assert metrics["miou"] > 0.08
    test_contract.test_methods_document_themselves(method)
    test_contract.test_label_maps_have_the_pictures_size_and_known_classes(method)
    test_contract.test_several_pictures_at_once_are_as_one_by_one(method)


def test_the_tutorial_runs(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(ROOT / "docs" / "own_pictures.py")]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=180)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("100.00% of the pixels as in Python") == 4
    out = tmp_path / "own_pictures"
    assert len(list(out.glob("overlays/*.png"))) == len(list(out.glob("by_command/overlays/*.png"))) == 4
    with Image.open(out / "comparison.png") as sheet:
        assert sheet.width > 1000
