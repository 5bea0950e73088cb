"""What ``test`` and ``validate`` leave in their run folder: ``metrics.json``, ``per_class.csv``, and a table on screen."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

from lightning.pytorch.callbacks import Callback
from rich.console import Console
from rich.table import Table

from evaluation.bootstrap import interval
from zerolabel_common import atomic_path


class SaveResults(Callback):
    """Writes and prints the result of a test."""

    def on_test_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        result = pl_module.metric.result()
        folder = trainer.log_dir  # asks the other processes, so all must ask
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
        if folder:
            save(Path(folder), summary, rows)


def save(folder: Path, summary: dict[str, Any], rows: list[tuple[str, float]]) -> None:
    """Writes ``metrics.json`` and ``per_class.csv``."""
    with atomic_path(folder / "metrics.json") as path:
        path.write_text(json.dumps(summary, indent=1))
    with atomic_path(folder / "per_class.csv") as path, path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["class", "iou"])
        writer.writerows(rows)
    print(f"metrics.json, per_class.csv and the configuration are in {folder}")


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
