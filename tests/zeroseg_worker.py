"""Started by ``test_zeroseg.py``: ``python -m tests.zeroseg_worker PROCESSES WEIGHTS.pt CACHE``."""

import sys
from typing import Any

import torchvision_compat  # noqa: F401

import lightning
import torch

from datamodules import DATAMODULES
from methods import METHODS
from zerolabel_common import leave_group


def main(processes: int, file: str, cache: str) -> None:
    lightning.seed_everything(0)
    model: Any = METHODS["ZeroSeg"](grids=[1, 2], learning_rate=1e-2, warmup_share=0.0, cache=cache)
    data = DATAMODULES["Shapes"](
        "shapes16", train="pictures", train_pictures=16, train_batch_size=4 // processes, num_workers=0
    )
    images = torch.rand(2, 3, 64, 64)
    before = model.groups(images)
    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=processes,
        strategy="ddp" if processes > 1 else "auto",
        max_steps=3,
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, data)
    if trainer.is_global_zero:
        after = model.eval().groups(images)
        found = {"z before": before.image, "z": after.image, "tokens": after.tokens, "assignment": after.assignment}
        torch.save({name: value.detach() for name, value in found.items()}, file)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3])
    leave_group()
