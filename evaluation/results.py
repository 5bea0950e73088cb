"""What a scored run leaves in its folder and in its loggers: ``metrics.json``, ``per_class.csv``, panels, a table on screen."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

from evaluation.bootstrap import interval
from evaluation.panels import KeepPanels, panel_images
from zerolabel_common import atomic_path

PICTURES = 4


class SaveResults(KeepPanels):
    """Writes and prints the result of a test; shows loggers the classes and the first pictures of tests and validations."""

    def __init__(self) -> None:
        super().__init__(PICTURES)

    def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        result = pl_module.metric.result()  # asks the other processes, so all must ask
        if trainer.is_global_zero and not trainer.sanity_checking:
            rows = list(zip(pl_module.vocabulary.names, result["iou"].tolist(), strict=True))
            show(trainer, "val", rows, panel_images(self.panels, pl_module.vocabulary))

    def on_test_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        result = pl_module.metric.result()
        folder = run_folder(trainer)  # asks the other processes, so all must ask
        if not trainer.is_global_zero:
            return
        low, high = interval(result["areas"].cpu())
        summary = {
            "data": trainer.datamodule.describe(),
            "vocabulary": pl_module.vocabulary.name,
            "protocol": {"name": pl_module.protocol.name, "hash": pl_module.protocol.hash},
            "pictures": len(result["pictures"]),
            "miou": result["miou"].item(),
            "miou_95": [low, high],
            "pixel_accuracy": result["pixel_accuracy"].item(),
            "frequency_weighted_iou": result["frequency_weighted_iou"].item(),
        }
        rows = list(zip(pl_module.vocabulary.names, result["iou"].tolist(), strict=True))
        print_table(summary, rows)
        panels = panel_images(self.panels, pl_module.vocabulary)
        show(trainer, "test", rows, panels)
        if folder:
            save(folder, summary, rows, panels)


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


def save(folder: Path, summary: dict[str, Any], rows: list[tuple[str, float]], panels: dict[int, Image.Image]) -> None:
    """Writes ``metrics.json``, ``per_class.csv`` and ``panels/INDEX.png``."""
    with atomic_path(folder / "metrics.json") as path:
        path.write_text(json.dumps(summary, indent=1))
    with atomic_path(folder / "per_class.csv") as path, path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["class", "iou"])
        writer.writerows(rows)
    for index, panel in panels.items():
        with atomic_path(folder / "panels" / f"{index}.png") as path:
            panel.save(path, format="PNG")
    print(f"metrics.json, per_class.csv, panels and the configuration are in {folder}")


def print_table(summary: dict[str, Any], rows: list[tuple[str, float]]) -> None:
    table = Table(
        "class", "IoU %", title=f"{summary['vocabulary']}, protocol {summary['protocol']['name']}", title_style="bold"
    )
    for name, iou in rows:
        table.add_row(name, "absent" if iou != iou else f"{100 * iou:.1f}")
    console = Console()
    console.print(table)
    low, high = summary["miou_95"]
    console.print(
        f"mIoU {100 * summary['miou']:.2f} (95 % interval {100 * low:.2f} to {100 * high:.2f}), "
        f"pixel accuracy {100 * summary['pixel_accuracy']:.2f}, {summary['pictures']} pictures, "
        f"protocol {summary['protocol']['hash']}"
    )
