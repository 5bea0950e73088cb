"""A result depends on the code that made it, and on no other."""

import importlib
import shutil
import subprocess
import sys
from pathlib import Path

import common.compat  # noqa: F401

import pytest

from backbones.clip import CLIP
from common.code import code_files, code_of
from methods.zeroseg.views import embed_views
from tests.conftest import ROOT

ASKED = """
import sys
from methods import IFSeg, TrainingFree
from common import code
for _ in sys.stdin:  # one import of torch for three answers
    code._imported.cache_clear()
    code._behaviour.cache_clear()
    print(code.code_of(IFSeg), code.code_of(TrainingFree), flush=True)
"""


def test_a_makers_files_are_those_it_imports() -> None:
    names = {str(path.relative_to(ROOT)) for path in code_files(embed_views, CLIP)}  # a decorated function
    assert {"methods/zeroseg/views.py", "backbones/clip.py", "backbones/attention.py", "backbones/tower.py"} <= names
    assert not any(name.startswith(("reporting", "evaluation", "methods/freeseg", ".venv")) for name in names)
    training_free = importlib.import_module("methods.training_free").TrainingFree
    files = {str(path.relative_to(ROOT)) for path in code_files(training_free)}
    assert "evaluation/label_map.py" in files
    assert not any(name.startswith(("reporting", "methods/ifseg", "methods/zeroseg", "datamodules")) for name in files)


def test_relative_imports_of_a_plug_in_are_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = tmp_path / "plug_in" / "inner"
    inner.mkdir(parents=True)
    for file, text in (("__init__", ""), ("base", ""), ("inner/__init__", ""), ("inner/net", ""), ("inner/unused", "")):
        (tmp_path / "plug_in" / f"{file}.py").write_text(text)
    (inner / "method.py").write_text("from . import net\nfrom ..base import *\n\ndef make(): ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    make = importlib.import_module("plug_in.inner.method").make
    assert {str(path.relative_to(tmp_path)) for path in code_files(make)} == {
        "plug_in/base.py",
        "plug_in/inner/method.py",
        "plug_in/inner/net.py",
    }


def test_comments_and_other_methods_change_nothing(tmp_path: Path) -> None:
    """In a copy of the tree, asked from outside."""
    for folder in ("common", "backbones", "evaluation", "methods", "datamodules"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("checkpoints", "__pycache__"))
    shutil.copytree(ROOT / "backbones" / "checkpoints", tmp_path / "backbones" / "checkpoints")
    asking = subprocess.Popen(
        [sys.executable, "-c", ASKED], cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    )

    def codes() -> list[str]:
        assert asking.stdin is not None
        assert asking.stdout is not None
        print(file=asking.stdin)
        return asking.stdout.readline().split()

    ifseg, training_free = codes()
    with (tmp_path / "methods" / "ifseg" / "ifseg.py").open("a") as file:
        file.write("\nADDED = 1\n")
    rule = tmp_path / "evaluation" / "label_map.py"
    rule.write_text(rule.read_text().replace('"""Merges, upsamples', '# why\n    """Merges and upsamples'))
    (tmp_path / "methods" / "new.py").write_text('"""Another method."""\n')
    changed, same = codes()
    assert same == training_free
    assert changed != ifseg
    rule.write_text(rule.read_text().replace("value > best", "value >= best"))
    assert codes()[1] != training_free
    asking.communicate(timeout=60)
    assert asking.returncode == 0
    assert code_of(embed_views) == code_of(embed_views)
