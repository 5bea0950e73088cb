"""compare: methods x benchmarks x seeds, ending in one table; what was measured before is not measured again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from common.files import writable_folder
from reporting.cells import speed
from reporting.fits import writes
from reporting.jobs import Answer, groups, side_by_side
from reporting.measuring import Builder, Measuring
from reporting.page import write_label_maps, write_report
from reporting.plan import Comparison
from reporting.result import Result
from reporting.tables import write_tables


def compare(plan: Comparison, output: Path, builder: Builder, devices: int = 1, jobs: int = 1) -> list[Result]:
    """Measures what is missing and writes tables and report after every new result.

    With several devices Lightning starts this program once for each; all of them walk the same way, the first one writes.
    They share each training batch, so that the training is the same experiment on any number of them. Several jobs are rows
    that are measured at the same time (:mod:`reporting.jobs`).
    """
    writable_folder(output / "kept")
    by_row: list[list[Result]] = [[] for _ in plan.methods]
    total = sum(len(plan.seeds_of(method)) * len(plan.benchmarks_of(method)) for method in plan.methods)
    measuring = Measuring(plan, output, builder, devices)
    rows = groups(plan, measuring.check())
    found = _one_by_one(measuring) if jobs == 1 else _side_by_side(measuring, rows, jobs)
    for row, result, is_new in found:
        by_row[row].append(result)
        results = [result for row in by_row for result in row]
        if not writes():
            continue
        print(
            f"[{len(results)}/{total}] {result.method} on {result.benchmark}: mIoU {100 * result.miou:.2f}"
            f" ({speed(result.pictures_per_second)} pictures/s){'' if is_new else ', kept from before'}",
            flush=True,
        )
        if is_new:
            write_tables(results, plan, output)
    if writes():
        write_tables(results, plan, output)
        write_report(results, plan, output)
        write_label_maps(results, output)
    return results


def _one_by_one(measuring: Measuring) -> Iterator[tuple[int, Result, bool]]:
    """Each result with the number of its row, and whether it is new."""
    for number, method in enumerate(measuring.plan.methods):
        for result, is_new in measuring.row(method):
            yield number, result, is_new


def _side_by_side(measuring: Measuring, rows: list[list[int]], jobs: int) -> Iterator[tuple[int, Result, bool]]:
    """The same, in the order in which several processes are done with them."""
    shared = (measuring.plan, measuring.output, measuring.builder, measuring.content)
    for answer in side_by_side(rows, jobs, answering, *shared):
        for number, method, benchmark, key, is_new in answer:
            result = Result.load(measuring.kept, key)
            assert result is not None, f"{method} on {benchmark} was measured, and is not kept in '{measuring.output}'"
            result.method, result.benchmark = method, benchmark
            yield number, result, is_new


def answering(plan: Comparison, output: Path, builder: Builder, content: dict[str, str]) -> Callable[[list[int]], Answer]:
    """What measures rows in a process of its own, and says where their results are kept."""
    builder.begin()
    measuring = Measuring(plan, output, builder, 1, content)

    def measure(rows: list[int]) -> Answer:
        return [
            (row, result.method, result.benchmark, result.key, is_new)
            for row in rows
            for result, is_new in measuring.row(plan.methods[row])
        ]

    return measure
