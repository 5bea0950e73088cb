"""A cell of the comparison, one method on one benchmark with one seed, and the file it is kept in."""

from __future__ import annotations

import hashlib
import json
import platform
import shutil
import subprocess
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from common import __version__
from common.files import ROOT, atomic_path
from evaluation.bootstrap import resampled_miou

PACKAGES = ("methods", "datamodules", "backbones", "evaluation")  # whose code a number depends on


@dataclass
class Cell:
    """One measured number with all that belongs to it: ``row`` for the tables, tensors for intervals and pictures."""

    row: dict[str, Any]
    areas: Tensor
    iou: Tensor
    panels: dict[str, Tensor]

    @cached_property
    def draws(self) -> Tensor:
        """Resampled mIoU; once, though the tables are written after every cell."""
        return resampled_miou(self.areas)

    def save(self, path: Path) -> None:
        tensors = {"areas": self.areas, "iou": self.iou} | {f"panel/{k}": v for k, v in self.panels.items()}
        with atomic_path(path) as temporary:
            save_file({k: v.contiguous() for k, v in tensors.items()}, temporary, {"row": json.dumps(self.row)})

    @classmethod
    def load(cls, path: Path) -> Cell | None:
        """None where there is no cell, or a broken one: it is then computed again."""
        try:
            with safe_open(path, "pt") as file:
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
                row = json.loads(file.metadata()["row"])
        except Exception:  # missing, truncated, foreign: whatever is wrong, the remedy is the same
            return None
        panels = {k.removeprefix("panel/"): v for k, v in tensors.items() if k.startswith("panel/")}
        return cls(row, tensors["areas"], tensors["iou"], panels)


@cache
def environment() -> dict[str, str]:
    """Commit and versions, for every row."""
    packages = ("torch", "lightning", "open_clip_torch", "torchmetrics", "transformers")
    versions = {f"version_{name}": version(name) for name in packages}
    return {"commit": _commit(), "python": platform.python_version()} | versions


def _commit() -> str:
    """Of the checkout; an installed wheel names its version, for a repository around it (its venv's) is another one."""

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=False)
        return done.stdout.strip()

    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        return f"release {__version__}"
    changed = "+changes" if git("status", "--porcelain", "--untracked-files=no") else ""
    return (git("rev-parse", "--short=12", "HEAD") or "unknown") + changed


@cache
def code_hash() -> str:
    """Of all code and settings that can change a number."""
    files = sorted(f for package in PACKAGES for f in (ROOT / package).rglob("*") if f.suffix in (".py", ".yaml"))
    return hashlib.sha256(b"".join(f.read_bytes() for f in files)).hexdigest()[:12]


def digest(content: Any) -> str:
    """16 hex digits that stand for plain content: what was kept for other content is not taken for this."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
