"""Exported methods against the methods themselves: pictures a second, and the whole memory of a process that segments one.

Ours is onnxruntime, with numpy and without torch, or torch on a ``.pt2``; the rival is ``segment()``. One picture of 480 x 640,
of noise.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.timing import Ratio, paired, status_mib

METHODS = {
    "SCLIP, tiny CLIP": ["--config", "configs/training_free/sclip.yaml"],
    "FreeSeg, embedded SegFormer": ["--config", "configs/freeseg/shapes.yaml"],
    "photographs, packaged tower": [],
}
KINDS = {"ONNX": (".onnx", []), "ONNX, 8 bits": (".8.onnx", ["--quantise"]), "pt2": (".pt2", [])}
CLASSES = "red plain disc; grass; sky; water"
PICTURE = np.random.default_rng(0).integers(0, 256, (1, 3, 480, 640), np.uint8)


def run() -> Iterator[Ratio]:
    with tempfile.TemporaryDirectory() as folder:
        for number, (name, options) in enumerate(METHODS.items()):
            for kind, (suffix, quantise) in KINDS.items():
                path = Path(folder, f"{number}{suffix}")
                asked = [*options, "--classes", CLASSES, "--output", str(path), *quantise]
                yield from compared(f"{name}: {kind}", asked, path)


def compared(what: str, asked: list[str], path: Path) -> Iterator[Ratio]:
    """Exports by the command line, then time and memory."""
    model = eager(asked)
    subprocess.run([sys.executable, "cli.py", "export", *asked], check=True, stdout=subprocess.DEVNULL)
    run = opened(path)
    time = paired(f"{what}, speed", lambda: run(PICTURE), lambda: segmented(model))
    yield replace(time, ours=1000 / time.ours, rival=1000 / time.rival, unit="pictures/s")
    mine, theirs = (memory(side, path, asked) for side in ("ours", "rival"))
    yield Ratio(f"{what}, memory", mine, theirs, theirs / mine, theirs / mine, theirs / mine, "MiB")


def opened(path: Path) -> Callable[[np.ndarray], Any]:
    """Runs the file, with as many threads as the method itself; of an ONNX without torch."""
    if path.suffix == ".pt2":
        from reporting.model_file import runner

        return runner(path)
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = int(os.environ.get("OMP_NUM_THREADS", "2"))
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda picture: session.run(None, {"picture": picture})


def eager(asked: list[str]) -> Any:
    from commands.export import export_options, method_of  # not where torch must stay out

    return method_of(export_options(asked))


def segmented(model: Any) -> Any:
    import torch

    return model.segment(torch.from_numpy(PICTURE[0]))


def memory(side: str, path: Path, asked: list[str]) -> float:
    """MiB that a process of its own took at most."""
    command = [sys.executable, "-m", "benchmarks.export", side, str(path), *asked]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


if __name__ == "__main__":
    if sys.argv[1] == "ours":
        opened(Path(sys.argv[2]))(PICTURE)
    else:
        segmented(eager(sys.argv[3:]))
    print(status_mib("VmHWM"))
