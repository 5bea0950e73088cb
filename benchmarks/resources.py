"""What every shipped config needs: parameters, pictures (or word maps) a second of one core, and memory.

The core's own seconds are counted, not the clock's; other jobs still slow them, up to twofold here. Memory is what the
process held at most during the measured steps, above what it held with all libraries loaded.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from typing import Any

import yaml

from benchmarks.scaling import table_row
from benchmarks.shipped import configs, published
from benchmarks.steps import circumstances, measure
from zerolabel_common import ROOT

REDUCED: dict[str, dict[str, Any]] = {  # published sizes: batches that a core does in seconds
    "IFSeg": {"batch": 1, "warm_up": 1, "steps": 1},
    "ZeroSeg": {"batch": 4, "warm_up": 1, "steps": 2},
    "FreeSeg": {"batch": 4, "warm_up": 1, "steps": 2},
    "GroupViT": {"pictures": 4},
}
LATER = {  # the part of a training that needs most does not come first
    "configs/ifseg/shapes_self_training.yaml": (", on its own label maps", ["--model.self_training_from=0"]),
    "configs/pretrain/tiny_clip.yaml": (", pictures with captions", ["--model.tagging_steps=0"]),
}


def run() -> Iterator[str]:
    yield circumstances()
    yield table_row("config", "parameters, M", "trained, M", "measured", "a core's second", "memory, MiB", "other jobs, cores")
    yield table_row(*["---"] * 7)
    for config in configs():
        yield row(config)


def row(config: str) -> str:
    """Of the table; a config that fails says how in its row."""
    content = yaml.safe_load((ROOT / config).read_text())
    stage = "fit" if "trainer" in content else "test"
    part, options = LATER.get(config, ("", []))
    reduced = REDUCED[content["model"]["class_path"]] if published(config) else {}
    name = config.removeprefix("configs/").removesuffix(".yaml")
    try:
        found = measure(config, timeout=240, stage=stage, options=options, **reduced)
    except subprocess.CalledProcessError as error:
        return table_row(name, "", "", f"failed: {error.stderr.strip().splitlines()[-1][:120]}", "", "", "")
    except subprocess.TimeoutExpired:
        return table_row(name, "", "", "not done in 240 s", "", "", "")
    what = "test" if stage == "test" else f"step of {found['batch']}{part}"
    if "batch" in reduced:
        what += f" (its own: {content['data']['init_args'].get('train_batch_size', 16)})"
    what += ", random weights" if reduced else ""
    each = 1e3 / found["core_ms"] * (found["batch"] if stage == "fit" else 1)
    sizes = [f"{found[key] / 1e6:.2f}" if found[key] else "none" for key in ("parameters", "trained")]
    return table_row(name, *sizes, what, f"{each:.3g}", f"{found['memory_mib']:.0f}", f"{found['others']:.1f}")
