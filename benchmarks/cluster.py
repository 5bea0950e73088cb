"""What a data-parallel step costs on GPUs that are not here: arithmetic on published rates, none of it measured."""

from __future__ import annotations

import math
from dataclasses import dataclass

UTILISATION = 0.35  # of the bf16 peak: ASSUMED; well-tuned transformers reach 0.3 to 0.5, a small SegFormer less
BACKWARD = 2 / 3  # of a step's arithmetic, the part that communication can hide behind
GRADIENT_BYTES = 4  # float32, as torch's bf16-mixed keeps them
ADAMW_BYTES = 16  # a trained parameter in float32: itself, its gradient, two moments
BUCKET = 25 * 2**20  # bytes that DDP sends at once (torch's default, bucket_cap_mb)
HOP = 5e-6  # seconds from one GPU to the next, of every bucket: ASSUMED
GPUS_PER_NODE = 8


@dataclass(frozen=True)
class Cluster:
    """Nodes of eight GPUs.

    Attributes:
        name: of the GPU.
        peak: bf16 operations a second without sparsity (NVIDIA's data sheets).
        inside: bytes a second of an all-reduce within a node, as ``nccl-tests`` calls it, ``busbw``.
        between: bytes a second that all network cards of a node carry together.
    """

    name: str
    peak: float
    inside: float
    between: float

    def compute_seconds(self, flops: float) -> float:
        return flops / (self.peak * UTILISATION)

    def all_reduce_seconds(self, size: float, gpus: int) -> float:
        """Of ``size`` bytes on each GPU: a ring's volume at the narrowest place, and a tree's hops for every bucket."""
        bandwidth = self.inside if gpus <= GPUS_PER_NODE else min(self.inside, self.between)
        hops = 2 * math.log2(gpus) * math.ceil(size / BUCKET)
        return 2 * (gpus - 1) / gpus * size / bandwidth + hops * HOP


CLUSTERS = (
    # NVLink: 8 x A100 230 to 250, 8 x H100 450 to 480 GB/s busbw are what whole nodes reach in nccl-tests
    # (docs.alayanew.com, 2026-05-06; github.com/NVIDIA/nccl-tests issue 290). Cards: 46 of 50 GB/s of a 400 Gb/s card (the same
    # issue), the same share of a 200 Gb/s one; four of these a node for the A100s, a modest cluster, eight for the H100s.
    Cluster("A100, 4 x 200 Gb/s", 312e12, 230e9, 4 * 23e9),
    Cluster("H100, 8 x 400 Gb/s", 989e12, 450e9, 8 * 46e9),
)


def efficiency(compute: float, communication: float, hidden: float = 0.0) -> float:
    """Share of a step that computes, where ``hidden`` seconds of the communication run beside it."""
    return compute / (compute + max(0.0, communication - hidden))


def state_bytes(parameters: int, trained: int) -> int:
    """Weights, gradients and AdamW's moments of a process; the frozen ones are weights alone."""
    return ADAMW_BYTES * trained + GRADIENT_BYTES * (parameters - trained)
