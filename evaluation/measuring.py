"""From a finished test or validation to a cell: the numbers, what belongs to them, and the time they took."""

from __future__ import annotations

import time
from typing import Any

from evaluation.cells import Cell, environment
from evaluation.panels import KeepPanels
from zerolabel_common import run_seed, state_hash


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
            "protocol_in_words": model.protocol.describe(),
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
