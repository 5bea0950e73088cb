"""A result: one method on one benchmark with one seed, all that belongs to the number, and how it is kept."""

from __future__ import annotations

import platform
import shutil
import subprocess
from dataclasses import dataclass, field, fields
from functools import cache, cached_property
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor

from common import __version__
from common.files import ROOT
from common.kept import Kept
from evaluation.jackknife import Estimate

PACKAGES = ("torch", "lightning", "open_clip_torch", "torchmetrics", "transformers")


@cache
def library_versions() -> dict[str, str]:
    """Of the libraries that numbers depend on."""
    return {name: version(name) for name in PACKAGES}


@cache
def commit() -> str:
    """Of the checkout; an installed wheel names its version, for a repository around it (its venv's) is another one."""

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=False)
        return done.stdout.strip()

    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        return f"release {__version__}"
    changed = "+changes" if git("status", "--porcelain", "--untracked-files=no") else ""
    return (git("rev-parse", "--short=12", "HEAD") or "unknown") + changed


@dataclass(kw_only=True)
class Result:
    """One measured number; fractions, not per cent.

    Attributes:
        sees: what the method's own training saw.
        boundary_miou: along borders; ``small_miou`` of classes that are small in their picture (:mod:`evaluation.boundary`).
        aurc: of selective prediction, from ``histogram`` (3, B); ``losses`` (B,) are sums over ``judged`` pictures
            (:mod:`evaluation.selective`).
        left_out: classes of the masks that no words were asked for.
        mean_score_contrast: of the maps, where it was asked for.
        pictures_per_second: of the test; None where pictures' tokens were remembered (:mod:`backbones.remembered`).
        seconds: of the test; ``fit_seconds`` of the training, None without one.
        protocol: name of the preset, ``protocol_hash`` over the rules that the method follows, ``column_hash`` over all of
            them, ``protocol_in_words`` what the method followed, ``column_in_words`` what the column is about.
        devices: that shared the training, or the test where nothing was trained; ``images_per_step`` of all of them.
        weights: hash of the method's weights.
        key: of all that went into the number, in a comparison.
        iou: (K,) by class; ``areas`` (N, 3, K) of intersection, predicted and target, by picture.
        panels: the first pictures, their masks and label maps, under ``INDEX/picture`` and so on.
        worst: the same of the pictures with the lowest mIoU, small, worst first (:mod:`reporting.worst`).
        figure: PNG of what training learnt from.
    """

    method: str
    benchmark: str
    seed: int
    sees: str
    miou: float
    pixel_accuracy: float
    frequency_weighted_iou: float
    boundary_miou: float
    small_miou: float
    aurc: float
    judged: int
    pictures: int
    pictures_per_second: float | None
    seconds: float
    protocol: str
    protocol_hash: str
    column_hash: str
    protocol_in_words: list[str]
    column_in_words: list[str]
    data: str
    vocabulary: str
    vocabulary_hash: str
    names: list[str]
    left_out: list[str]
    palette: list[list[int]]
    device: str
    date: str
    mean_score_contrast: float | None = None
    fit_seconds: float | None = None
    devices: int = 1
    images_per_step: int | None = None
    weights: str = ""
    key: str = ""
    commit: str = field(default_factory=commit)
    python: str = field(default_factory=platform.python_version)
    versions: dict[str, str] = field(default_factory=library_versions)
    iou: Tensor
    areas: Tensor
    histogram: Tensor
    losses: Tensor
    panels: dict[str, Tensor] = field(default_factory=dict)
    worst: dict[str, Tensor] = field(default_factory=dict)
    figure: bytes | None = None

    @cached_property
    def estimate(self) -> Estimate:
        """The mIoU with and without each picture; once, though the tables are written after every result."""
        return Estimate.of_miou(self.areas)

    @property
    def row(self) -> dict[str, Any]:
        """What belongs into a table, by column."""
        left_out = {"names", "palette", "left_out", "judged", "protocol_in_words", "column_in_words", "versions", *TENSORS}
        row = {name: getattr(self, name) for name in PLAIN if name not in left_out}
        return row | {f"version_{name}": number for name, number in self.versions.items()}

    def save(self, store: Kept, key: str) -> None:
        """Keeps it.

        Raises:
            UserError: the folder cannot be written.
        """
        tensors: dict[str, Tensor] = {name: getattr(self, name) for name in COUNTS}
        for group, shown in ("panel", self.panels), ("worst", self.worst):
            tensors |= {f"{group}/{name}": value for name, value in shown.items()}
        if self.figure is not None:
            tensors["figure"] = torch.frombuffer(bytearray(self.figure), dtype=torch.uint8)
        store.write(key, tensors, {name: getattr(self, name) for name in PLAIN})

    @classmethod
    def load(cls, store: Kept, key: str) -> Result | None:
        """None where there is none, or one that is damaged or of another version's form: it is then measured again."""
        entry = store.read(key)
        if entry is None or set(entry.note) != set(PLAIN):
            return None
        tensors = entry.tensors
        shown: dict[str, dict[str, Tensor]] = {"panel": {}, "worst": {}}
        for name, value in tensors.items():
            group, _, rest = name.partition("/")
            if group in shown:
                shown[group][rest] = value
        figure = tensors["figure"].numpy().tobytes() if "figure" in tensors else None
        whole = {name: tensors[name] for name in COUNTS} | {"figure": figure}
        return cls(**entry.note | whole, panels=shown["panel"], worst=shown["worst"])


COUNTS = ("iou", "areas", "histogram", "losses")
TENSORS = (*COUNTS, "panels", "worst", "figure")
PLAIN = tuple(one.name for one in fields(Result) if one.name not in TENSORS)


def environment() -> dict[str, str]:
    """Commit and versions."""
    return {"commit": commit(), "python": platform.python_version()} | {
        f"version_{k}": v for k, v in library_versions().items()
    }
