"""What a scored run leaves in its folder and in its loggers: a cell, ``metrics.json``, ``per_class.csv``, panels."""

from __future__ import annotations

import csv
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

from common.files import atomic_path
from common.randomness import run_seed
from common.weights import state_hash
from evaluation.bootstrap import interval_of
from evaluation.protocol_in_words import in_words
from reporting.figures import KeepPanels, panel_images
from reporting.result import Cell, environment

PICTURES = 4
CELL = "cell.safetensors"


class Measure(KeepPanels):
    """Keeps the first pictures, times the run, and makes its cell."""

    def __init__(self, pictures: int) -> None:
        super().__init__(pictures)
        self.started = 0.0
        self.seconds = 0.0

    def on_test_start(self, trainer: Any, pl_module: Any) -> None:
        self.started, self.seconds = time.perf_counter(), 0.0

    def on_test_end(self, trainer: Any, pl_module: Any) -> None:
        self.seconds = time.perf_counter() - self.started

    on_validation_start = on_test_start

    def cell(self, model: Any, data: Any, **row: Any) -> Cell:
        """On all processes, since the counts of all are summed; ``row`` replaces the names that a run gives itself."""
        result = model.metric.result()
        count = len(result["pictures"])
        seconds = self.seconds or time.perf_counter() - self.started
        own = {
            "method": type(model).__name__,
            "benchmark": f"{data.describe()}: {model.vocabulary.name}, {count} pictures",
            "seed": run_seed(),
            "sees": model.sees.value,
            "miou": result["miou"].item(),
            "pixel_accuracy": result["pixel_accuracy"].item(),
            "frequency_weighted_iou": result["frequency_weighted_iou"].item(),
            "mean_score_contrast": None,
            "pictures": count,
            "pictures_per_second": count / seconds,
            "seconds": seconds,
            "protocol": model.protocol.name,
            "protocol_hash": model.protocol.hash,
            "protocol_in_words": in_words(model.protocol),
            "data": data.describe(),
            "vocabulary": model.vocabulary.name,
            "vocabulary_hash": model.vocabulary.hash,
            "names": list(model.vocabulary.names),
            "palette": model.vocabulary.palette.tolist(),
            "device": str(model.device),
            "date": time.strftime("%Y-%m-%d %H:%M:%S"),
            "fit_seconds": None,
            "figure": None,
        }
        return Cell(own | environment() | row, result["areas"].cpu(), result["iou"].cpu(), dict(self.panels))


def weights_hash(model: Any) -> str:
    """Of a method's weights alone, without the counts of its metric."""
    return state_hash({name: value for name, value in model.state_dict().items() if not name.startswith("metric")})


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
        cell, folder = self.cell(model, trainer.datamodule, **row), run_folder(trainer)  # ask the other processes, so all must
        if not trainer.is_global_zero:
            return
        if stage == "val":
            cell.row["benchmark"] += " of the validation"
        panels = panel_images(cell.panels, model.vocabulary)
        show(trainer, stage, list(zip(cell.row["names"], cell.iou.tolist(), strict=True)), panels)
        if stage == "test":
            print_table(cell)
        if folder:
            save(folder / stage, cell, panels)
            if stage == "test":
                print(f"metrics.json, per_class.csv, panels and cell.safetensors are in {folder / stage}")


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


def save(folder: Path, cell: Cell, panels: dict[int, Image.Image]) -> None:
    """``cell.safetensors`` (all there is, for ``zerolabel report``), and for people the rest; the newest replaces the last."""
    cell.save(folder / CELL)
    with atomic_path(folder / "metrics.json") as path:
        path.write_text(json.dumps(summary(cell), indent=1))
    with atomic_path(folder / "per_class.csv") as path, path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["class", "iou"])
        writer.writerows(zip(cell.row["names"], cell.iou.tolist(), strict=True))
    for index, panel in panels.items():
        with atomic_path(folder / "panels" / f"{index}.png") as path:
            panel.save(path, format="PNG")


def summary(cell: Cell) -> dict[str, Any]:
    """The numbers of a run without those per class."""
    kept = ("data", "vocabulary", "protocol", "protocol_hash", "pictures", "miou", "pixel_accuracy", "frequency_weighted_iou")
    return {key: cell.row[key] for key in kept} | {"miou_95": interval_of(cell.draws)}


def print_table(cell: Cell) -> None:
    row = cell.row
    table = Table("class", "IoU %", title=f"{row['vocabulary']}, protocol {row['protocol']}", title_style="bold")
    for name, iou in zip(row["names"], cell.iou.tolist(), strict=True):
        table.add_row(name, "absent" if iou != iou else f"{100 * iou:.1f}")
    console = Console()
    console.print(table)
    low, high = interval_of(cell.draws)
    console.print(
        f"mIoU {100 * row['miou']:.2f} (95 % interval {100 * low:.2f} to {100 * high:.2f}), "
        f"pixel accuracy {100 * row['pixel_accuracy']:.2f}, {row['pictures']} pictures, protocol {row['protocol_hash']}"
    )
