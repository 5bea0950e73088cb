"""``python -m tests.contract.fit_worker PROCESSES STATES.pt CACHE`` trains the methods a few steps (``test_exact.py``)."""

import os
import sys
from typing import Any

import common.compat  # noqa: F401  (must come before what imports torchvision)

import lightning
import torch

from common.distributed import leave_group
from datamodules import DATAMODULES
from methods import METHODS

METHODS_TRIED: dict[str, dict[str, Any]] = {
    "IFSeg": {"learning_rate": 1e-3},
    "ZeroSeg": {"grids": [1, 2], "learning_rate": 1e-2, "warmup_share": 0.0},
    "FreeSeg": {
        "learning_rate": 1e-3,
        "mining": {"span": "collection", "seen_in": "regions", "positive": 0.015, "negative": 0.004, "foreground": 0.5},
    },
    "LinearProbe": {"num_classes": 16},
}
BATCH, STEPS = 4, 3  # of all processes


class NothingDrawn(lightning.Callback):
    """No dropout, whose draws are each process's own, and no batch norm (SegFormer's head) over a process's own pictures."""

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        pl_module.eval()


def data(name: str, processes: int) -> Any:
    pictures = DATAMODULES["Shapes"](
        "shapes16",
        train="masks" if name == "LinearProbe" else "pictures",
        train_pictures=16,
        train_batch_size=BATCH // processes,
        num_workers=0,
    )
    if name == "IFSeg":
        return DATAMODULES["WordMaps"](scored_on=pictures, maps=16, train_batch_size=BATCH // processes, num_workers=0)
    return pictures


def main(processes: int, file: str, cache: str) -> None:
    found = {}
    os.environ["ZEROLABEL_CACHE"] = cache  # nothing that the run before measured
    for name, options in METHODS_TRIED.items():
        lightning.seed_everything(0)
        kept = {"ZeroSeg": {"cache": f"{cache}/views"}, "FreeSeg": {"masks": f"{cache}/masks"}}.get(name, {})
        model: Any = METHODS[name](**options, **kept)
        before = {key: value.clone() for key, value in model.state_dict().items()}
        trainer = lightning.Trainer(
            accelerator="cpu",
            devices=processes,
            strategy="ddp" if processes > 1 else "auto",
            max_steps=STEPS,
            callbacks=[NothingDrawn()],
            limit_val_batches=0,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(model, data(name, processes))
        after = model.state_dict()
        found[name] = {key: (value, after[key]) for key, value in before.items() if value.is_floating_point()}
    if trainer.is_global_zero:
        torch.save(found, file)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3])
    leave_group()
