"""The report command: tables and one page from any runs."""

from __future__ import annotations

import common.compat  # noqa: F401  (must come before lightning)

from jsonargparse import ArgumentParser

from commands.errors import plain_errors
from commands.quiet import quiet
from common.files import writable_folder
from reporting.page import write_label_maps, write_report
from reporting.plan import BenchmarkEntry, Comparison
from reporting.runs import read_runs
from reporting.tables import write_tables


def run(arguments: list[str]) -> int:
    """Writes the tables and the page of a comparison for runs that were made one by one."""
    quiet()
    parser = ArgumentParser(prog="zerolabel report", description=run.__doc__, exit_on_error=False)
    parser.add_argument("runs", nargs="+", help="run folders, outputs of compare, or folders of such; NAME=FOLDER names one")
    parser.add_argument("--output", "-o", default="report", help="folder of the tables and report.html")
    parser.add_argument("--title", default="Runs", help="of the page")
    with plain_errors():
        options = parser.parse_args(arguments)
    output = writable_folder(options.output)
    runs = read_runs(options.runs)
    results = [result for run in runs for result in run.results]
    shown = {result.benchmark: BenchmarkEntry(result.benchmark, "", result.protocol) for result in results}
    contrast = all(result.mean_score_contrast is not None for result in results)
    pictures = max((int(key.partition("/")[0]) + 1 for result in results for key in result.panels), default=0)
    plan = Comparison(options.title, [], list(shown.values()), pictures=pictures, contrast=contrast)
    if results:
        write_tables(results, plan, output)
        write_label_maps(results, output)
        print((output / "results.md").read_text(encoding="utf-8"))
    write_report(results, plan, output, runs)
    print(f"{len(runs)} runs; report: {output / 'report.html'}")
    return 0
