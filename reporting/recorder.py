"""What a run leaves in its folder and in its loggers: its result, ``metrics.json``, ``per_class.csv``, panels, exports."""

from __future__ import annotations

import csv
import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch.callbacks import Callback
from PIL import Image
from rich.console import Console
from rich.table import Table

from common.distributed import gathered
from common.files import atomic_path, save_tensors
from common.kept import Kept
from common.randomness import run_seed
from common.weights import weights_hash
from evaluation.protocol_in_words import in_words
from evaluation.risk_control import Risks
from evaluation.selective import STATED, coverage_at, told_apart
from reporting.cells import percent, safe_cell
from reporting.figures import KeepPanels, panel_images
from reporting.none_of_these import RISKS, asked_of
from reporting.result import COUNTS, Result
from reporting.worst import Worst

PICTURES = 4
RESULT = "result"
MEASURES = ("miou", "pixel_accuracy", "frequency_weighted_iou", "boundary_miou", "small_miou", "aurc")


class Measure(KeepPanels):
    """Keeps the first pictures and the worst ones, times the run, and makes its result."""

    def __init__(self, pictures: int) -> None:
        super().__init__(pictures)
        self.worst = Worst()
        self.started = 0.0
        self.seconds = 0.0

    def on_test_start(self, trainer: Any, pl_module: Any) -> None:
        self.started, self.seconds, self.worst = time.perf_counter(), 0.0, Worst()

    def on_test_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        super().on_test_batch_end(trainer, pl_module, outputs, batch, batch_idx, dataloader_idx)
        self.worst.look(pl_module.metric, batch, outputs["label_maps"])

    def on_test_end(self, trainer: Any, pl_module: Any) -> None:
        self.seconds = time.perf_counter() - self.started

    on_validation_start = on_test_start
    on_validation_batch_end = on_test_batch_end

    def result(self, model: Any, data: Any, trainer: Any, **row: Any) -> Result:
        """On all processes, since the counts of all are summed; ``row`` replaces what a run says of itself."""
        counts = model.metric.result() | model.selective.compute()
        count = len(counts["pictures"])
        seconds = self.seconds or time.perf_counter() - self.started
        own = {
            "method": type(model).__name__,
            "benchmark": f"{data.describe()}: {model.vocabulary.name}, {count} pictures",
            "seed": run_seed(),
            "sees": model.sees_in_words,
            **{name: counts[name].item() for name in MEASURES},
            "pictures": count,
            "pictures_per_second": count / seconds,
            "seconds": seconds,
            "protocol": model.protocol.name,
            "protocol_hash": model.protocol.hash,
            "column_hash": model.protocol.column_hash,
            "protocol_in_words": in_words(model.protocol),
            "column_in_words": in_words(model.protocol.followed_whole()),
            "data": data.describe(),
            "vocabulary": model.vocabulary.name,
            "vocabulary_hash": model.vocabulary.hash,
            "names": list(model.vocabulary.names),
            "left_out": list(model.vocabulary.left_out),
            "palette": model.vocabulary.palette.tolist(),
            "device": str(model.device),
            "devices": trainer.world_size,
            "date": time.strftime("%Y-%m-%d %H:%M:%S"),
            "judged": counts["judged"].item(),
            **{name: counts[name].cpu() for name in COUNTS},
            "panels": dict(gathered(list(self.panels.items()))),
            "worst": self.worst.panels(),
        }
        return Result(**own | row)


class SaveResults(Measure):
    """Keeps the result of every test and validation in the run's folder and shows it to the loggers; a test is printed, too."""

    def __init__(self) -> None:
        super().__init__(PICTURES)

    def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        if not trainer.sanity_checking:
            self._keep(trainer, pl_module, "val")

    def on_test_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self._keep(trainer, pl_module, "test", weights=weights_hash(pl_module))

    def _keep(self, trainer: Any, model: Any, stage: str, **row: Any) -> None:
        # both ask the other processes, so all must
        result, folder = self.result(model, trainer.datamodule, trainer, **row), run_folder(trainer)
        if not trainer.is_global_zero:
            return
        if stage == "val":
            result.benchmark += " of the validation"
        panels = panel_images(result.panels, model.vocabulary)
        show(trainer, stage, list(zip(result.names, result.iou.tolist(), strict=True)), panels)
        if stage == "test":
            print_table(result, model.protocol.published)
        if folder:
            save(folder / stage, result, panels)
            if stage == "test":  # not at every validation of a training: it asks for a hash of all weights
                asked = asked_of(model, result.weights)
                Risks.of(asked, result.data, result.histogram, result.losses, result.judged).save(folder / stage / RISKS)
                print(f"metrics.json, per_class.csv, {RISKS}, panels and {RESULT}.safetensors are in {folder / stage}")


class SaveTraining(Callback):
    """Writes what a method's training learnt from (``learnt_from.png``) and what it leaves behind (``Segmenter.export``)."""

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        folder = run_folder(trainer)  # asks the other processes, so all must ask
        if folder and trainer.is_global_zero and pl_module.figure is not None:
            with atomic_path(folder / "learnt_from.png") as path:
                path.write_bytes(pl_module.figure)

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        folder = run_folder(trainer)
        if folder and trainer.is_global_zero:
            save_exported(pl_module, folder)


def save_exported(model: Any, folder: Path) -> None:
    """Writes what a training leaves behind beside checkpoints (``Segmenter.export``)."""
    for name, exported in model.export().items():
        tensors = {key: value.detach().cpu().contiguous() for key, value in exported.tensors.items()}
        save_tensors(folder / name, tensors, exported.texts)


def run_folder(trainer: Any) -> Path | None:
    """Where a run's files lie, on all processes: where its checkpoints are; ``log_dir`` is shared by all runs under W&B."""
    folder = trainer.log_dir
    if folder is None or type(trainer.logger).__name__ != "WandbLogger":
        return None if folder is None else Path(folder)
    own = trainer.strategy.broadcast(f"{trainer.logger.name}/{trainer.logger.version}" if trainer.is_global_zero else "")
    return Path(folder) / own


def show(trainer: Any, stage: str, rows: list[tuple[str, float]], panels: dict[int, Image.Image]) -> None:
    """Hands IoU per class and panels to the loggers that can show them."""
    for logger in trainer.loggers:
        kind = type(logger).__name__
        if kind == "WandbLogger":
            logger.log_table(f"{stage}/iou per class", ["class", "iou"], [list(row) for row in rows])
            for index, panel in panels.items():
                logger.log_image(f"{stage}/panel {index}", [panel])
        elif kind == "TensorBoardLogger":
            for index, panel in panels.items():
                logger.experiment.add_image(f"{stage}/panel {index}", np.asarray(panel), trainer.global_step, dataformats="HWC")
            table = "\n".join(["| class | IoU |", "|---|---|", *(f"| {name} | {100 * iou:.1f} |" for name, iou in rows)])
            logger.experiment.add_text(f"{stage}/iou per class", table, trainer.global_step)


def save(folder: Path, result: Result, panels: dict[int, Image.Image]) -> None:
    """The result (all there is, for ``zerolabel report``), and for people the rest; the newest replaces the last."""
    result.save(Kept("results", folder, required=True), RESULT)
    with atomic_path(folder / "metrics.json") as path:
        path.write_text(json.dumps(summary(result), indent=1))
    with atomic_path(folder / "per_class.csv") as path, path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["class", "iou"])
        writer.writerows(zip(map(safe_cell, result.names), result.iou.tolist(), strict=True))
    for index, panel in panels.items():
        with atomic_path(folder / "panels" / f"{index}.png") as path:
            panel.save(path, format="PNG")


def summary(result: Result) -> dict[str, Any]:
    """The numbers of a run without those per class."""
    kept = ("data", "vocabulary", "protocol", "protocol_hash", "pictures", *MEASURES)
    return {key: getattr(result, key) for key in kept} | {
        "miou_95": None if math.isnan(result.estimate.interval[0]) else result.estimate.interval,
        "coverage_at_risk": {str(risk): coverage_at(result.histogram, risk) for risk in STATED},
        "left_out": dict(zip(("auroc", "fpr95"), told_apart(result.histogram), strict=True)) if result.left_out else None,
    }


def print_table(result: Result, published: float | None = None) -> None:
    """Classes and mIoU; beside it what the preset's authors report, so that wrong weights or files show at once.

    Args:
        result: of a test.
        published: per cent mIoU, see :class:`evaluation.protocol.Protocol`.
    """
    table = Table("class", "IoU %", title=f"{result.vocabulary}, protocol {result.protocol}", title_style="bold")
    for name, iou in zip(result.names, result.iou.tolist(), strict=True):
        table.add_row(name, "absent" if iou != iou else f"{100 * iou:.1f}")
    console = Console()
    console.print(table)
    low, high = result.estimate.interval
    interval = "no interval from one picture" if math.isnan(low) else f"95 % interval {100 * low:.2f} to {100 * high:.2f}"
    console.print(
        f"mIoU {100 * result.miou:.2f} ({interval}), "
        f"along borders {percent(result.boundary_miou)}, of small classes {percent(result.small_miou)}, "
        f"pixel accuracy {100 * result.pixel_accuracy:.2f}, AURC {percent(result.aurc)}, "
        f"{result.pictures} pictures, protocol {result.protocol_hash}"
    )
    if published is not None:
        console.print(
            f"expected {published:.2f}, measured {100 * result.miou:.2f}: the first is what the authors of '{result.protocol}' "
            "report for their own method, their weights and the whole set."
        )
