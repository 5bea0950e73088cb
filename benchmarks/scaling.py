"""Weak scaling: measured on one and two CPU processes, and arithmetic for 8 and 64 GPUs at the published sizes.

Measured: the same batch for every process, one thread each, DDP over gloo, taken in turn. More processes than cores would only
measure how the cores are shared. The arithmetic counts the operations of the shipped step at its published size on the CPU.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from typing import Any

from benchmarks.cluster import BACKWARD, CLUSTERS, GRADIENT_BYTES, Cluster, efficiency, state_bytes
from benchmarks.steps import circumstances, measure

EMBEDDED = {name: f"configs/{name.lower()}/shapes.yaml" for name in ("IFSeg", "ZeroSeg", "FreeSeg")}
PUBLISHED: dict[str, tuple[str, list[str], int, int]] = {  # config, options, batch a GPU, batches of an optimiser's step
    "IFSeg, OFA-base": ("configs/ifseg/coco_stuff171.yaml", [], 16, 1),
    "IFSeg, OFA-large": ("configs/ifseg/coco_stuff171.yaml", ["--model.size=large"], 16, 1),
    "ZeroSeg, ViT-B/16, views cached": ("configs/zeroseg/imagenet.yaml", [], 256, 2),
    "FreeSeg, SegFormer-B0, masks mined": ("configs/freeseg/coco_stuff.yaml", [], 16, 1),
}
ROUNDS = 3


def run() -> Iterator[str]:
    yield circumstances()
    yield from measured()
    yield from arithmetic()


def measured() -> Iterator[str]:
    """Efficiency by the clock suffers where other jobs want the cores too; by the cores' own work it leaves out waiting."""
    timed = ("1 process, ms", "2 processes, ms", "efficiency by the clock", "by the cores' work")
    yield table_row("training step", "batch a process", *timed, "gradients, MB", "adding these up, ms", "other jobs, cores")
    yield table_row(*["---"] * 9)
    for name, config in EMBEDDED.items():
        alone, both = in_turn(config, steps=10)
        size = GRADIENT_BYTES * both[0]["trained"] / 1e6
        reduced = spread([two["all_reduce_ms"] for two in both], ".1f")
        times = (spread([found["ms"] for found in runs]) for runs in (alone, both))
        yield table_row(name, both[0]["batch"], *times, *shares(alone, both), f"{size:.1f}", reduced, others(alone + both))
    alone, both = in_turn("configs/training_free/sclip.yaml", stage="test", pictures=192)
    for found in both:
        found["ms"] *= 2  # a process's own share is half of the pictures
        found["core_ms"] *= 2
    rates = (spread([count * 1e3 / found["ms"] for found in runs], ".1f") for count, runs in ((1, alone), (2, both)))
    yield ""
    timed = ("1 process, pictures/s", "2 processes, pictures/s", "efficiency by the clock", "by the cores' work")
    yield table_row("evaluation", *timed, "other jobs, cores")
    yield table_row(*["---"] * 6)
    yield table_row("SCLIP, 192 pictures", *rates, *shares(alone, both), others(alone + both))


def shares(alone: list[dict[str, Any]], both: list[dict[str, Any]]) -> list[str]:
    """Efficiency, the time of one process over that of two that do twice as much, by the clock and by the cores' work."""
    pairs = list(zip(alone, both, strict=True))
    return [spread([one[key] / two[key] for one, two in pairs], ".2f") for key in ("ms", "core_ms")]


def others(runs: list[dict[str, Any]]) -> str:
    return spread([found["others"] for found in runs], ".1f")


def in_turn(config: str, **asked: Any) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """What one process and what two find, ``ROUNDS`` times one after the other, as the machine's speed drifts."""
    pairs = [[measure(config, processes=processes, **asked) for processes in (1, 2)] for _ in range(ROUNDS)]
    return [one for one, _ in pairs], [two for _, two in pairs]


def arithmetic() -> Iterator[str]:
    yield ""
    sizes = ["at its published size", "trained", "GFLOP a picture", "state, GB", "GPUs", "compute, ms"]
    yield table_row(*sizes, "exchange on 8, ms", "on 64, ms", "efficiency on 8", "on 64")
    yield table_row(*["---"] * 10)
    largest = 0.0
    for name, (config, options, batch, accumulated) in PUBLISHED.items():
        found = measure(config, timeout=600, batch=1, warm_up=0, steps=1, count_flops=True, options=options)
        state = state_bytes(found["parameters"], found["trained"]) / 1e9
        largest = max(largest, state)
        size = (f"{found['trained'] / 1e6:.1f} M", f"{found['flops'] / 1e9:.0f}", f"{state:.1f}")
        for cluster in CLUSTERS:
            yield table_row(
                name, *size, cluster.name, *predicted(cluster, batch * found["flops"], accumulated, found["trained"])
            )
    yield ""
    yield (
        "Fully sharded training (FSDP) divides weights, gradients and AdamW's moments among the GPUs. Here these are "
        f"{largest:.1f} GB at most, so no shipped config needs it on a GPU of 16 GB or more. Activations it does not divide."
    )


def predicted(cluster: Cluster, flops: float, accumulated: int, trained: int) -> list[str]:
    """Compute of an optimiser's step of ``accumulated`` batches, exchange, and efficiency without and with overlap."""
    once = cluster.compute_seconds(flops)
    exchanges = [cluster.all_reduce_seconds(GRADIENT_BYTES * trained, gpus) for gpus in (8, 64)]
    shares = [(efficiency(accumulated * once, e), efficiency(accumulated * once, e, BACKWARD * once)) for e in exchanges]
    times = [f"{1e3 * seconds:.2f}" for seconds in (accumulated * once, *exchanges)]
    return times + [f"{worst:.0%} to {best:.0%}" for worst, best in shares]


def spread(values: list[float], form: str = ".0f") -> str:
    """``median (lowest to highest)``."""
    return f"{statistics.median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


def table_row(*cells: object) -> str:
    return f"| {' | '.join(map(str, cells))} |"
