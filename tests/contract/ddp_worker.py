"""Started by ``test_exact.py`` on 1, 2 and 3 processes: ``python -m tests.contract.ddp_worker PROCESSES RESULT.json``."""

import json
import logging
import sys
from pathlib import Path
from typing import Any

import common.compat  # noqa: F401  (must come before what imports torchvision)

import lightning

from common.distributed import leave_group
from datamodules import DATAMODULES
from methods import METHODS
from reporting.predictions import SavePredictions
from tests.contract.learner import Learner

CASES = {"test-5": ("test", 5), "test-4": ("test", 4), "test-2": ("test", 2), "fit-3": ("fit", 3), "fit-2": ("fit", 2)}


def main(processes: int, file: Path) -> None:
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    results: dict[str, Any] = {}
    plain: dict[str, Any] = {
        "accelerator": "cpu",
        "devices": processes,
        "strategy": "ddp" if processes > 1 else "auto",
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    for case, (stage, count) in CASES.items():
        train = {"train_pictures": 24, "train": "pictures", "train_batch_size": 6 // processes}
        data = DATAMODULES["Shapes"](pictures=count, batch_size=2, num_workers=0, **train)
        model = Learner("sclip")
        trainer = lightning.Trainer(max_epochs=1, num_sanity_val_steps=2, **plain)
        trainer.fit(model, data) if stage == "fit" else trainer.test(model, data, verbose=False)
        assert model.metric is not None
        assert model.selective is not None
        result = model.metric.result()
        selective = model.selective.compute()
        results[case] = {"outcomes": selective["histogram"].sum(1).tolist(), "judged": selective["judged"].item()}
        logged = trainer.callback_metrics
        results[case] |= {key: result[key].tolist() for key in ("matrix", "pictures", "areas")}
        results[case] |= {"steps": trainer.global_step, "miou": logged[f"{'val' if stage == 'fit' else 'test'}/miou"].item()}
    images, output = file.parent / "pictures", file.with_suffix("")
    predictor = lightning.Trainer(callbacks=[SavePredictions(output)], **plain)
    predictor.predict(
        METHODS["TrainingFree"]("sclip"), DATAMODULES["Pictures"](str(images), "cat; dog"), return_predictions=False
    )
    if predictor.is_global_zero:
        file.write_text(json.dumps(results))


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
    leave_group()
