"""Times the training steps, or the test, of one config in processes of its own.

``python -m benchmarks.steps CONFIG '{"processes": 2, ...}'`` is what :func:`measure` starts; it prints one line of JSON.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torchvision_compat  # noqa: F401  (must come before lightning)

import lightning
import torch
import torch.distributed as dist
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import zerolabel_lightning
from benchmarks.shipped import made
from benchmarks.timing import forget_peak, status_mib
from evaluation.cells import environment
from zerolabel_common import ROOT, gathered, leave_group


def convolution_backward(gradient: Any, _: Any, weight: Any, *more: Any, **__: Any) -> int:
    """By shapes, of a plain one: the forward's operations for the input, and again for the weights. Torch's forgets groups."""
    return 2 * math.prod(gradient) * math.prod(weight[1:]) * sum(more[-1][:2])


COUNTED = {torch.ops.aten.convolution_backward: convolution_backward}


@dataclass(frozen=True)
class Asked:
    """What is measured of a config.

    Attributes:
        stage: ``fit`` or ``test``.
        processes: that share the work, one thread each.
        batch: pictures or maps a step and process; None for the config's own.
        pictures: scored by a test.
        warm_up: steps before the first that counts.
        steps: that count.
        count_flops: count the floating point operations of all steps, which makes them slow.
        options: more of the command line's.
    """

    stage: str = "fit"
    processes: int = 1
    batch: int | None = None
    pictures: int = 64
    warm_up: int = 2
    steps: int = 8
    count_flops: bool = False
    options: list[str] = field(default_factory=list)


class Stopwatch(lightning.Callback):
    """Seconds of every training step (forward, backward, optimiser), or of the whole test, after all processes have arrived.

    Attributes:
        seconds: by the clock.
        worked: by this process's own core; other jobs slow it (to half, seen here), but waiting for them does not count.
    """

    def __init__(self, warm_up: int) -> None:
        self.seconds: list[float] = []
        self.worked: list[float] = []
        self.warm_up = warm_up

    def start(self, trainer: Any) -> None:
        trainer.strategy.barrier()  # reading a batch is not part of the step, nor is waiting for another's batch
        self.started = (time.perf_counter(), time.process_time())

    def stop(self) -> None:
        self.seconds.append(time.perf_counter() - self.started[0])
        self.worked.append(time.process_time() - self.started[1])

    def begin(self) -> None:
        """From here on memory and the other jobs are watched."""
        forget_peak()
        self.began = (time.perf_counter(), busy_seconds(), time.process_time())

    def others(self) -> float:
        """Cores that other jobs, and the machine's other guests, have kept busy since."""
        now = (time.perf_counter(), busy_seconds(), time.process_time())
        elapsed, busy, own = (after - before for after, before in zip(now, self.began, strict=True))
        return max(0.0, busy - sum(gathered([own]))) / elapsed

    def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
        if len(self.seconds) == self.warm_up:
            self.begin()
        self.start(trainer)

    def on_train_batch_end(self, *_: Any) -> None:
        self.stop()

    def on_test_epoch_start(self, trainer: Any, *_: Any) -> None:
        self.begin()
        self.start(trainer)

    def on_test_epoch_end(self, trainer: Any, *_: Any) -> None:
        trainer.strategy.barrier()
        self.stop()


def busy_seconds() -> float:
    """That all cores together have worked since the machine started, or waited for its other guests (Linux)."""
    user, nice, system, _idle, _waiting, *rest = map(int, Path("/proc/stat").read_text().splitlines()[0].split()[1:9])
    return (user + nice + system + sum(rest)) / os.sysconf("SC_CLK_TCK")


def measure(config: str, timeout: int = 300, **asked: Any) -> dict[str, Any]:
    """What :func:`work` found in a process of its own.

    Raises:
        subprocess.SubprocessError: it failed, or took longer than ``timeout`` seconds.
    """
    kept = {"MALLOC_MMAP_THRESHOLD_": "131072"}  # as in benchmarks.timing
    with tempfile.TemporaryDirectory() as cache:
        alone = {"OMP_NUM_THREADS": "1", "ZEROLABEL_CACHE": cache, "HF_HUB_OFFLINE": "1"}
        command = [sys.executable, "-m", "benchmarks.steps", config, json.dumps(asked)]
        options: dict[str, Any] = {"check": True, "capture_output": True, "text": True, "cwd": ROOT, "timeout": timeout}
        try:
            done = subprocess.run(command, env=os.environ | kept | alone, **options)
        except subprocess.CalledProcessError as error:
            error.add_note(error.stderr[-2000:])
            raise
    return json.loads(done.stdout.splitlines()[-1])


def circumstances() -> str:
    """For the line above a table: commit, cores, threads and what else the machine was doing."""
    load = os.getloadavg()[0]
    return (
        f"Commit {environment()['commit']}, {os.cpu_count()} cores, one thread a process, load {load:.1f} before the first run."
    )


def work(config: str, asked: Asked, folder: Path) -> dict[str, Any]:
    """What was found: ``ms`` a step (of a test: a picture), parameters, memory added in MiB, other jobs, exchange ..."""
    torch.set_num_threads(1)
    zerolabel_lightning.quiet()
    before = status_mib("VmRSS")
    strategy = "ddp" if asked.processes > 1 else "auto"
    options = [f"--trainer.devices={asked.processes}", f"--trainer.strategy={strategy}", *asked.options]
    if asked.stage == "fit":
        options.append(f"--trainer.max_steps={asked.warm_up + asked.steps}")
    cli = made(config, options, folder, asked.batch, few=2 * asked.processes * (asked.batch or 64))
    stopwatch = Stopwatch(asked.warm_up)
    cli.trainer.callbacks.append(stopwatch)
    found: dict[str, Any] = {"rank": cli.trainer.global_rank}
    if asked.stage == "fit":
        found |= _fit(cli, asked, stopwatch)
    else:
        found |= _test(cli, asked, stopwatch)
    found["others"] = stopwatch.others()
    trained = sum(p.numel() for p in cli.model.parameters() if p.requires_grad)
    found |= {"parameters": sum(p.numel() for p in cli.model.parameters()), "trained": trained if asked.stage == "fit" else 0}
    found["memory_mib"] = status_mib("VmHWM") - before
    if dist.is_initialized() and asked.stage == "fit":
        found["all_reduce_ms"] = 1e3 * _all_reduce(trained)
    return found


def _fit(cli: Any, asked: Asked, stopwatch: Stopwatch) -> dict[str, Any]:
    """Attention is computed as plain products where they are counted, because fused kernels hide theirs on a CPU."""
    counter = FlopCounterMode(display=False, custom_mapping=COUNTED)
    with contextlib.ExitStack() as stack:
        if asked.count_flops:
            stack.enter_context(sdpa_kernel(SDPBackend.MATH))
            stack.enter_context(counter)
        cli.trainer.fit(cli.model, cli.datamodule)
    batch = cli.datamodule.train_batch_size
    flops = counter.get_total_flops() / (batch * len(stopwatch.seconds)) if asked.count_flops else math.nan
    ms, core_ms = (1e3 * statistics.median(times[asked.warm_up :]) for times in (stopwatch.seconds, stopwatch.worked))
    return {"ms": ms, "core_ms": core_ms, "batch": batch, "flops": flops}


def _test(cli: Any, asked: Asked, stopwatch: Stopwatch) -> dict[str, Any]:
    """Twice: the first warms up."""
    cli.datamodule.limit = asked.pictures
    for _ in range(2):
        cli.trainer.test(cli.model, cli.datamodule, verbose=False)
    ms, core_ms = (1e3 * times[-1] / asked.pictures for times in (stopwatch.seconds, stopwatch.worked))
    return {"ms": ms, "core_ms": core_ms, "batch": cli.datamodule.batch_size}


def _all_reduce(numbers: int, runs: int = 7) -> float:
    """Seconds (median) that the processes take to add up this many float32 numbers."""
    seconds, gradient = [], torch.zeros(numbers)
    for _ in range(runs):
        dist.barrier()
        started = time.perf_counter()
        dist.all_reduce(gradient)
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[1:])


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        result = work(sys.argv[1], Asked(**json.loads(sys.argv[2])), Path(place))
    leave_group()
    if result.pop("rank") == 0:
        print(json.dumps(result), flush=True)
