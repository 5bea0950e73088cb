"""The rows of a comparison, several at a time: in processes of their own that share what is kept."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import torch

from common.errors import UserError
from common.stopping import end_with_parent
from reporting.plan import Comparison

Answer = list[tuple[int, str, str, str, bool]]  # row, method, benchmark, key of the result, whether it is new

_measure: Callable[[list[int]], Answer]  # of a worker


def side_by_side(rows: list[list[int]], jobs: int, start: Callable[..., Any], *arguments: Any) -> Iterator[Answer]:
    """The answers of groups of rows, each as it is done; the first error ends all of them.

    Args:
        rows: groups of their numbers, as of :func:`groups`.
        jobs: processes; they share the threads that torch has here.
        start: a function of a module, called once in each process with the ``arguments``; gives what measures rows by number.
        arguments: of ``start``.

    Raises:
        UserError: a row's own, or a process was killed.
    """
    threads = max(1, torch.get_num_threads() // jobs)
    context = multiprocessing.get_context("spawn")  # CUDA cannot be forked
    pool = ProcessPoolExecutor(jobs, context, _begin, (threads, multiprocessing.get_start_method(), start, arguments))
    try:
        running: list[Future[Answer]] = [pool.submit(_rows, group) for group in rows]
        for done in as_completed(running):
            yield done.result()
    except BaseException as error:
        for process in list(pool._processes.values()):
            process.kill()  # at SIGTERM, Lightning would end a training, and the process wait for another
        pool.shutdown(wait=False, cancel_futures=True)
        if isinstance(error, BrokenProcessPool):
            raise UserError(
                f"one of {jobs} processes ended, most often for want of memory. Finished results are kept: start the same "
                "command again, with fewer --jobs."
            ) from error
        raise
    pool.shutdown()


def groups(plan: Comparison, trainings: dict[str, dict[str, Any]]) -> list[list[int]]:
    """Numbers of rows that belong together: those that share a training, and what starts from another row's.

    Groups with a training come first: they take longest.

    Args:
        plan: the comparison.
        trainings: by method, what its training follows from; equal for methods that share one.
    """
    found: dict[str, list[int]] = {}
    group_of: dict[str, str] = {}
    for number, method in enumerate(plan.methods):
        alone = repr(trainings[method.name]) if method.name in trainings else f"row {number}"
        group_of[method.name] = name = group_of[method.after] if method.after else alone
        found.setdefault(name, []).append(number)
    return sorted(found.values(), key=lambda rows: not any(plan.methods[row].fit for row in rows))


def _begin(threads: int, loaders: str, start: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    global _measure
    multiprocessing.set_start_method(loaders, force=True)  # of loader processes: a spawned process would spawn its own, too
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first process ends this one
    os.environ["TERM"] = "dumb"  # several bars on one terminal overwrite each other
    end_with_parent()
    torch.set_num_threads(threads)
    _measure = start(*arguments)


def _rows(rows: list[int]) -> Answer:
    return _measure(rows)
