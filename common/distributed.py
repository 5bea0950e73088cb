"""The processes of a running job."""

from __future__ import annotations

import sys
from typing import Any


def rank_and_world() -> tuple[int, int]:
    """(rank, processes) of the running job; (0, 1) without one."""
    import torch.distributed as dist  # here, so that help and mistakes answer without it

    running = dist.is_available() and dist.is_initialized()
    return (dist.get_rank(), dist.get_world_size()) if running else (0, 1)


def leave_group() -> None:
    """Ends the group of processes, if there is one: gloo's threads, still there at exit, can abort a process that was done."""
    dist = sys.modules.get("torch.distributed")
    if dist is not None and dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def barrier() -> None:
    """Waits for the other processes, if there are any."""
    import torch.distributed as dist

    if rank_and_world()[1] > 1:
        dist.barrier()


def is_padding_sample(index: int) -> bool:
    """Whether this process reads the picture only to keep step with the others (``datamodules.sampling``)."""
    rank, world = rank_and_world()
    return index % world != rank


def gathered(rows: list[Any]) -> list[Any]:
    """The rows of all processes, on each of them."""
    import torch.distributed as dist

    parts: list[list[Any]] = [rows] * rank_and_world()[1]
    if len(parts) > 1:
        dist.all_gather_object(parts, rows)
    return [row for part in parts for row in part]


def mean_of_processes(value: float) -> float:
    """The mean of a number of each process, on all of them."""
    import torch
    import torch.distributed as dist

    world = rank_and_world()[1]
    if world == 1:
        return value
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    total = torch.tensor(value, dtype=torch.float64, device=device)
    dist.all_reduce(total)
    return total.item() / world
