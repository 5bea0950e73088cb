"""The documentation does what it says: links lead somewhere, examples run."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.conftest import ROOT

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
    """The examples of adding a method are the configs that are named and not there."""
    named = set(re.findall(r"configs/[\w/]+\.yaml", page.read_text())) - {
        "configs/mean_of_rules.yaml",
        "configs/self_trained_head.yaml",
    }
    assert not [name for name in named if not (ROOT / name).is_file()]


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs" / "README.md").read_text()
    assert all(f"]({path.name})" in index for path in (ROOT / "docs").glob("*.md") if path.name != "README.md")


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the tree with the page's methods and configs in it, and nothing else touched."""
    copy = tmp_path_factory.mktemp("extended") / "tree"
    left_out = shutil.ignore_patterns(
        ".git", ".venv", "__pycache__", "results", "runs", ".*_cache", ".hypothesis", "*.egg-info"
    )
    shutil.copytree(ROOT, copy, ignore=left_out)
    for code in blocks("adding_a_method.md", "python"):
        (name,) = re.findall(r"^class (\w+)", code, re.MULTILINE)
        (copy / "methods" / f"{snake(name)}.py").write_text(code)
        assert len(code.splitlines()) <= 40
    for config in blocks("adding_a_method.md", "yaml"):
        (name,) = re.findall(r"class_path: (\w+)\n  init_args: {(?:rule|outputs)", config)
        (copy / "configs" / f"{snake(name)}.yaml").write_text(config)
    return copy


def snake(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


def test_the_examples_of_adding_a_method_keep_the_contract(extended: Path) -> None:
    """All contract tests, in the extended tree: fit, test, checkpoint, resume, rules, documentation, config."""
    tests = [f"tests/contract/test_{name}.py" for name in ("contract", "configs", "resume", "golden")]
    chosen = "MeanOfRules or SelfTrainedHead or mean_of_rules or self_trained_head"
    command = [sys.executable, "-m", "pytest", "-rs", *tests, "-k", chosen]
    done = subprocess.run(
        command, cwd=extended, env=in_tree(extended), capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert int(re.findall(r"(\d+) passed", done.stdout)[0]) > 60
    assert "ZEROLABEL_GOLDEN=write" in done.stdout  # a learner without a record of its losses is skipped, and told so


def test_the_examples_learn_and_are_scored_by_the_command_line(extended: Path, tmp_path: Path) -> None:
    """Both are more than background everywhere (mIoU 6 %), the head after a short training."""
    quick = ["--data.pictures=4", "--data.num_workers=0", "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"]
    runs = f"--trainer.default_root_dir={tmp_path}"
    head = ["--config", "configs/self_trained_head.yaml", runs, *quick]
    commands = [
        ["test", "--config", "configs/mean_of_rules.yaml", runs, *quick],
        ["fit", *head, "--trainer.max_steps=30", "--trainer.limit_val_batches=0", "--data.train_batch_size=16"],
        ["test", *head, "--ckpt_path=last"],
    ]
    called = [sys.executable, "-c", f"import cli; print([cli.main(command) for command in {commands}])"]
    done = subprocess.run(called, cwd=extended, env=in_tree(extended), capture_output=True, text=True, check=False, timeout=200)
    assert done.stdout.endswith("[0, 0, 0]\n"), done.stderr
    scores = [json.loads(file.read_text())["miou"] for file in tmp_path.rglob("test/metrics.json")]
    assert len(scores) == 2
    assert min(scores) > 0.15


def in_tree(folder: Path) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(folder)}


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
