"""``python -m tests.contract.kills POINTS DEVICES [METHOD ...]``: every learner, killed at random moments and gone on with.

The moments are uniform over the whole run, making caches and writing checkpoints included; all processes die at once, as when a
machine fails. What a run that goes on from its newest checkpoint logs at every step, and the weights it ends with, are compared
with those of a run left alone, bit for bit. Every second run has two loader workers. Prints a row for each learner; exit code 1
if anything differs. A point takes 5 to 20 seconds.
"""

import json
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

import common.compat  # noqa: F401  (must come before what imports torchvision)

import lightning
import torch
from lightning.pytorch.callbacks import Callback

from methods import METHODS
from reporting.checkpoints import AtomicCheckpointIO, PeriodicCheckpoint, last_checkpoint
from tests.contract.test_contract import shapes, trainer
from tests.contract.test_resume import LEARNERS

STEPS, EVERY = 24, 3  # of a run, between checkpoints; 3 steps are an epoch


class WriteLosses(Callback):
    """A line for each step, in a file that a kill leaves behind."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        if not trainer.is_global_zero:
            return
        logged = {k: float(v) for k, v in trainer.callback_metrics.items() if "train" in k}
        with self.file.open("a") as file:
            file.write(json.dumps([trainer.global_step, logged]) + "\n")


def fit(name: str, root: Path, devices: int, workers: int) -> None:
    """Trains in a new folder below ``root``, from the newest checkpoint there if there is one; its caches lie there, too."""
    os.environ["ZEROLABEL_CACHE"] = str(root / "cache")
    lightning.seed_everything(1, verbose=False)
    data = shapes(METHODS[name])
    for part in (data, getattr(data, "scored_on", None)):
        if part is not None:
            part.train_pictures, part.maps, part.num_workers = 12 * devices, 12 * devices, workers
    resume = last_checkpoint(root)
    folder = root / f"run{len(list(root.glob('run*')))}"
    callbacks = [WriteLosses(root / "losses.jsonl"), PeriodicCheckpoint(EVERY, 2, str(folder / "checkpoints"))]
    run = trainer(
        folder,
        max_steps=STEPS,
        limit_val_batches=0,
        enable_checkpointing=True,
        callbacks=callbacks,
        plugins=[AtomicCheckpointIO()],
        devices=devices,
        strategy="ddp_fork" if devices > 1 else "auto",
    )
    model = METHODS[name]()
    folder.mkdir()
    run.fit(model, data, ckpt_path=resume, weights_only=True)
    torch.save(model.state_dict(), root / "final.pt")


def in_a_process(name: str, root: Path, devices: int, workers: int = 0, killed_after: float | None = None) -> float:
    """The seconds that it ran; a forked process, so that nobody waits for imports."""
    root.mkdir(exist_ok=True)
    started = time.perf_counter()
    if (child := os.fork()) == 0:
        os.setpgid(0, 0)
        os.dup2(os.open(root / "output", os.O_WRONLY | os.O_CREAT | os.O_APPEND), 1)
        os.dup2(1, 2)
        try:
            fit(name, root, devices, workers)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    if killed_after is not None:
        time.sleep(killed_after)
        os.killpg(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    if killed_after is None and status:
        sys.exit(f"{name} failed:\n{(root / 'output').read_text()}")
    return time.perf_counter() - started


def differences(whole: Path, again: Path) -> int:
    """Weights and logged losses that are not the same bits."""
    weights, others = (torch.load(root / "final.pt", weights_only=True) for root in (whole, again))
    found = sum(not torch.equal(value, others[key]) for key, value in weights.items())
    losses = dict(json.loads(line) for line in (whole / "losses.jsonl").read_text().splitlines())
    lines = [json.loads(line) for line in (again / "losses.jsonl").read_text().splitlines()]
    assert {step for step, _ in lines} == set(range(1, STEPS + 1))
    return found + sum(losses[step] != logged for step, logged in lines)


def main(points: int, devices: int, names: list[str]) -> int:
    torch.set_num_threads(1)
    print("| learner | kills | steps done when killed | differences |\n|---|---|---|---|")
    total = 0
    for name in names:
        rng = random.Random(name)
        with tempfile.TemporaryDirectory() as folder:
            whole = Path(folder) / "whole"
            seconds = in_a_process(name, whole, devices)
            done, found = [], 0
            for point in range(points):
                root, workers = Path(folder) / str(point), 2 * (point % 2)
                in_a_process(name, root, devices, workers, killed_after=rng.uniform(0.05, 1) * seconds)
                file = root / "losses.jsonl"
                done.append(len(file.read_text().splitlines()) if file.exists() else 0)
                in_a_process(name, root, devices, workers)
                found += differences(whole, root)
        print(f"| {name} | {points} | {' '.join(map(str, sorted(done)))} of {STEPS} | {found} |", flush=True)
        total += found
    return 1 if total else 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:] or LEARNERS))
