"""What is asked of Lightning's trainer, checked before it is made: names, and processes that the machine could not bear."""

from __future__ import annotations

import os
import re
import sys
from typing import Any

import common.compat  # noqa: F401  (must come before lightning)

import torch
from lightning import LightningModule
from lightning.pytorch.accelerators import AcceleratorRegistry
from lightning.pytorch.strategies import StrategyRegistry

from common.errors import UserError, known

PROCESSES_PER_CORE = 4


def check_trainer(accelerator: Any, strategy: Any, devices: Any) -> None:
    """Checks the values of these options of the trainer; objects and numbers that Lightning knows better are left to it.

    Raises:
        UserError: an unknown name, what is no number of devices, or far more processes than cores.
    """
    if isinstance(accelerator, str):
        known("accelerator", accelerator, ["auto", "gpu", *AcceleratorRegistry.available_accelerators()])
    if isinstance(strategy, str):
        known("strategy", strategy, ["auto", *StrategyRegistry.available_strategies()])
    listed = devices if isinstance(devices, list) else [] if devices is None else str(devices).split(",")
    if wrong := [one for one in listed if not re.fullmatch(r"auto|\s*-?\d*\s*", str(one))]:
        raise UserError(f"devices is {wrong[0]!r}; it must be a whole number, a list of them such as '0,1', or auto.")
    if on_cpu(accelerator):
        check_processes(devices)


def on_cpu(accelerator: Any) -> bool:
    return accelerator == "cpu" or (accelerator == "auto" and not torch.cuda.is_available())


def note_emulated_precision(accelerator: Any, precision: Any) -> None:
    """Says that bf16 is slow where the CPU knows nothing like ``amx_bf16``, ``avx512_bf16`` or ``sve_bf16``."""
    can = any(has for name, has in torch.cpu.get_capabilities().items() if "bf16" in name)
    if on_cpu(accelerator) and str(precision).startswith("bf16") and not can:
        slower = "is 4 to 8 times slower here than 32-true"
        print(f"note: this CPU has no bf16 arithmetic: '{precision}' {slower}.", file=sys.stderr)


def learns(method: type[LightningModule]) -> bool:
    """Whether there is something to ``fit``."""
    return method.training_step is not LightningModule.training_step


def check_processes(devices: Any, cores: int | None = None) -> None:
    """Of a run on the CPU, where each device is a process with a copy of everything.

    Args:
        devices: number of processes, also as a text; anything else is left to Lightning.
        cores: of the machine; default: those that this process may use.

    Raises:
        UserError: more than :data:`PROCESSES_PER_CORE` of them on each core.
    """
    cores = cores or usable_cores()
    if str(devices).isdigit() and int(devices) > PROCESSES_PER_CORE * cores:
        raise UserError(
            f"{devices} devices would be {devices} processes on {cores} CPU core{'s' if cores > 1 else ''}, each with its own "
            f"copy of model and data. Ask for at most {PROCESSES_PER_CORE * cores}; more than {cores} gain nothing."
        )


def usable_cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
