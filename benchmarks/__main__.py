"""Runs the benchmarks named on the command line, or all."""

from __future__ import annotations

import importlib
import os
import platform
import sys

import common.compat  # noqa: F401  (must come before what imports torchvision)

import torch

from common.errors import known

NAMES = ("metric", "label_map", "windows", "loading", "image_free", "views", "mining", "scores", "intervals", "export")

if __name__ == "__main__":
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    threads, load = torch.get_num_threads(), os.getloadavg()[0]
    print(f"{platform.machine()}, {os.cpu_count()} cores, {threads} threads, load {load:.1f}, torch {torch.__version__}")
    for name in sys.argv[1:] or NAMES:
        for ratio in importlib.import_module(f"benchmarks.{known('benchmark', name, NAMES)}").run():
            print(ratio, flush=True)
