"""The compare command: makes a comparison's methods and benchmarks as the command line would, and runs it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import common.compat  # noqa: F401  (must come before lightning)

from jsonargparse import ArgumentParser

import datamodules
from commands.checks import check_trainer
from commands.errors import plain_errors
from commands.quiet import quiet
from commands.trained import build_trained
from common.errors import UserError, known
from common.files import file_name, shipped
from common.values import Within
from reporting.comparison import compare
from reporting.fits import writes
from reporting.measuring import strategy
from reporting.plan import BenchmarkEntry, Comparison, MethodEntry, read_plan


class CommandLineBuilder:
    """Makes a comparison's methods and benchmarks as the command line would (:class:`reporting.measuring.Builder`).

    Args:
        devices: that share each row.
        with_bar: whether trainings show their progress.
        output: folder below which each training has a run folder; for what trains.
    """

    def __init__(self, devices: int = 1, with_bar: bool = True, output: Path | None = None) -> None:
        self.devices, self.with_bar, self.output = devices, with_bar, output

    def begin(self) -> None:
        quiet()

    def method(self, entry: MethodEntry, seed: int, words_of: BenchmarkEntry | None = None) -> tuple[Any, Any, Any]:
        options = [f"--{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in entry.set.items()]
        training = ["--trainer.logger=false", "--trainer.enable_checkpointing=false", f"--seed_everything={seed}"]
        training += [f"--trainer.devices={self.devices}", f"--trainer.strategy={strategy(self.devices)}"]
        training += ["--trainer.enable_model_summary=false", f"--trainer.enable_progress_bar={str(self.with_bar).lower()}"]
        if entry.fit and self.output is not None:
            name = " ".join([entry.name, *([words_of.name] if words_of else []), f"seed {seed}"])
            options.insert(0, f"--trainer.default_root_dir={self.output / 'runs' / file_name(name)}")  # the row's own wins
        if words_of is not None:
            options.append(f"--data.scored_on={json.dumps({'class_path': words_of.data, 'init_args': words_of.options})}")
        cli = build_trained(["--config", entry.config, *options, *training], entry.checkpoint)
        if entry.fit:
            cli.datamodule.share_batch(self.devices)
        return cli.model, cli.datamodule, cli.trainer

    def data(self, entry: BenchmarkEntry) -> Any:
        parser = ArgumentParser(exit_on_error=False)
        parser.add_subclass_arguments(datamodules.DataModule, "data")
        with plain_errors():
            known("datamodule", entry.data, datamodules.DATAMODULES)
            content = {"data": {"class_path": entry.data, "init_args": entry.options}}
            return parser.instantiate_classes(parser.parse_object(content)).data


def run(arguments: list[str]) -> int:
    """The compare command."""
    quiet()
    parser = ArgumentParser(prog="zerolabel compare", description=compare.__doc__, exit_on_error=False)
    parser.add_argument("--config", "-c", default="configs/compare/shapes.yaml", help="methods, benchmarks, seeds")
    parser.add_argument("--output", "-o", default="results", help="folder of tables, report and kept results")
    parser.add_argument("--devices", type=int, default=1, help="GPUs (or CPU processes) that share each fit and each test")
    parser.add_argument("--jobs", type=int, default=1, help="rows at a time, each on its share of the CPU's threads")
    with plain_errors():
        options = parser.parse_args(arguments)
        Within(1).check("devices", options.devices, int)
        Within(1).check("jobs", options.jobs, int)
        if options.jobs > 1 and options.devices > 1:
            raise UserError(f"--jobs {options.jobs} and --devices {options.devices}: rows at a time have one device each.")
        check_trainer("auto", strategy(options.devices), options.devices)
        plan = read_plan(Path(shipped(options.config)), parse_plan)
    output = Path(options.output)
    builder = CommandLineBuilder(options.devices, with_bar=options.jobs == 1, output=output)
    compare(plan, output, builder, options.devices, options.jobs)
    if not writes():
        return 0
    print("\n" + (output / "results.md").read_text(encoding="utf-8"))
    print(f"report: {output / 'report.html'}; tables: results.csv, results.md, results.tex, per_class.csv in {output}")
    return 0


def parse_plan(content: dict[str, Any]) -> Comparison:
    """A plan from what its YAML holds, with its types checked."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Comparison, "plan")
    plan: Comparison = parser.instantiate_classes(parser.parse_object({"plan": content})).plan
    return plan
