"""What a scored run leaves in its folder and in its loggers: a cell, ``metrics.json``, ``per_class.csv``, panels."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

from evaluation.bootstrap import interval_of
from evaluation.cells import Cell
from evaluation.measuring import Measure, weights_hash
from evaluation.panels import panel_images
from zerolabel_common import atomic_path

PICTURES = 4
CELL = "cell.safetensors"


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
