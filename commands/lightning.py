"""fit, validate, test, predict: LightningCLI in subclass mode, with four differences.

1. The hyper-parameters of ``--ckpt_path`` are defaults *below* the configs and the command line (Lightning lets them
   win silently). 2. Each subcommand keeps its own ``config_<subcommand>.yaml`` in a folder per run. 3. Mistakes answer
   with one line and the known names. 4. ``predict`` has short options for pictures, classes and output.
"""

from __future__ import annotations

import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

import common.compat  # noqa: F401  (must come before lightning)

from lightning.pytorch.callbacks import Callback
from lightning.pytorch.cli import LightningCLI
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities.exceptions import SIGTERMException

import datamodules
import methods
from commands.checks import check_trainer, learns, note_emulated_precision
from commands.errors import plain_errors
from commands.help import HELP_ALL, HELP_OPTIONS, print_help
from commands.predict_options import PREDICT_HELP, TOWER, PredictOptions, predict_options
from commands.quiet import quiet
from commands.sources import RUN_FOLDER, Trained, checkpoint_of, with_run_folder, with_shipped_configs
from common.errors import UserError
from common.files import writable_folder
from reporting.checkpoints import AtomicCheckpointIO, default_checkpoints, last_checkpoint
from reporting.exporting import Exports, SaveExports
from reporting.film import SaveFilm
from reporting.predictions import SavePredictions
from reporting.progress import Progress
from reporting.recorder import SaveResults, SaveTraining
from reporting.run_config import SaveRun, new_folder, prepare_wandb
from reporting.tiles import SaveTiles

RUNS = "runs"  # where results go, unless the user says otherwise
SAVES = {"pictures": SavePredictions, "frames": SaveFilm, "tiles": SaveTiles}  # by what predict goes through
METHODS = methods.METHODS  # imports them, so that their class names are known


class ZeroLabelCLI(LightningCLI):
    """The command line of all methods and datamodules, by their class names."""

    def __init__(
        self,
        arguments: list[str],
        run: bool = True,
        trained: Trained | None = None,
        exports: Exports | None = None,
        change: Callback | None = None,
    ) -> None:
        self.trained = trained
        self.exports, self.change = exports, change
        super().__init__(
            methods.Segmenter,
            datamodules.DataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            save_config_callback=SaveRun,
            seed_everything_default=0,
            auto_configure_optimizers=False,
            trainer_defaults={"default_root_dir": RUNS, "accelerator": "auto"},
            parser_kwargs={"exit_on_error": False},
            args=arguments,
            run=run,
        )

    def _parse_ckpt_path(self) -> None:
        """Nothing: :func:`run` has put the checkpoint's hyper-parameters below the other sources."""

    def before_instantiate_classes(self) -> None:
        """One folder per run, unless the user chose a logger; ``--ckpt_path last`` is the newest checkpoint of them all."""
        asked = self._get(self.config, "trainer")
        check_trainer(asked.accelerator, asked.strategy, asked.devices)
        note_emulated_precision(asked.accelerator, asked.precision)
        if self.subcommand is None:
            return
        config = self.config[self.subcommand]
        method = config.model.class_path.rpartition(".")[2]
        if self.trained and method != self.trained.method:
            raise UserError(
                f"checkpoint '{self.trained.checkpoint}' is of another model: it is of {self.trained.method}, --model says "
                f"{method}."
            )
        trainer = config.trainer
        root = writable_folder(trainer.default_root_dir)
        if config.ckpt_path == "last":
            config.ckpt_path = last = last_checkpoint(root, method)
            none = f"no checkpoint of {method} under '{root}' yet: starting anew"
            print(f"going on from '{last}'" if last else none, flush=True)
        if self.subcommand == "predict":
            trainer.logger = False
            if trainer.default_root_dir == RUNS:
                trainer.default_root_dir = str(root / new_folder(root, self.subcommand))
            return
        own = {"save_dir": str(root), "name": "", "version": new_folder(root, self.subcommand)}
        if trainer.logger in (None, True):
            trainer.logger = {"class_path": f"{CSVLogger.__module__}.CSVLogger", "init_args": own}
            return
        for logger in _several(trainer.logger):
            if logger.class_path.endswith("WandbLogger"):
                prepare_wandb(logger.init_args, root)
            elif logger.init_args.get("save_dir") == RUN_FOLDER:
                for name, value in own.items():
                    logger.init_args[name] = value

    def after_instantiate_classes(self) -> None:
        """``fit`` needs a method that learns."""
        if self.subcommand == "fit" and not learns(type(self.model)):
            raise UserError(f"{type(self.model).__name__} needs no training; use test, predict or compare.")

    def instantiate_trainer(self, **kwargs: Any) -> Any:
        """Adds what writes the results; it is no option of the user's."""
        self.predictions: SavePredictions | None = None
        if self.subcommand == "predict":
            folder = Path(self.config.predict.trainer.default_root_dir)
            self.predictions = SAVES[self.datamodule.predicts](folder, getattr(self.change, "notes", None))
        own: list[Any] = [self.predictions or SaveResults()] if self.subcommand is not None else []
        if self.change:
            own.insert(0, self.change)  # before what writes
        if self.predictions and self.exports:
            own.append(SaveExports(self.predictions.folder, self.exports))
        if self.subcommand == "fit":
            own.append(SaveTraining())
            chosen = self.config.fit.trainer
            if chosen.enable_checkpointing is not False and not _has(chosen.callbacks, "Checkpoint", ".PeriodicCheckpoint"):
                own += default_checkpoints()
            kwargs["plugins"] = [*_several(self._get(self.config_init, "trainer")["plugins"]), AtomicCheckpointIO()]
        chosen = self._get(self.config, "trainer")
        if chosen.enable_progress_bar is not False and not _has(chosen.callbacks, "Progress", "ProgressBar"):
            own.append(Progress())
        self.trainer_defaults["callbacks"] = own
        return super().instantiate_trainer(**kwargs)


def _several(chosen: Any) -> list[Any]:
    """A list of what the user gave: none, one or several."""
    return chosen if isinstance(chosen, list) else [chosen] if chosen else []


def _has(callbacks: Any, *names: str) -> bool:
    """Whether the user chose a callback whose class's name ends so."""
    return any(callback.class_path.endswith(names) for callback in _several(callbacks))


def run(arguments: list[str]) -> int:
    """Runs ``[subcommand, options ...]``; returns the exit code."""
    quiet()
    subcommand, options = arguments[0], arguments[1:]
    if HELP_OPTIONS & set(options):
        if subcommand == "predict":
            print(PREDICT_HELP)
        print_help(subcommand, options)
        return 0
    options = ["--help" if option == HELP_ALL else option for option in options]
    asked = predict_options(options) if subcommand == "predict" else PredictOptions(options, False, None)
    try:
        with tempfile.TemporaryDirectory() as folder:
            trained = checkpoint_of(asked.lightning, Path(folder))
            cli = build([subcommand, *asked.lightning], run=True, trained=trained, exports=asked.exports, change=asked.change)
    except SIGTERMException:
        print("stopped by SIGTERM; go on with --ckpt_path last", file=sys.stderr, flush=True)
        return 128 + signal.SIGTERM
    if asked.by_default:
        print(TOWER)
    elif subcommand == "predict" and {"clip": "tiny_clip", "pretrained": "embedded"}.items() <= cli.model.hparams.items():
        print("note: the embedded model has only seen coloured shapes; on photographs its labels are wrong. For real pictures")
        print("      name no --config, or add --config configs/backbones/clip_vit_b16.yaml.")
    return 2 if cli.predictions is not None and cli.predictions.failed else 0


def build(
    arguments: list[str],
    run: bool = False,
    trained: Trained | None = None,
    exports: Exports | None = None,
    change: Callback | None = None,
) -> ZeroLabelCLI:
    """Parses and instantiates (and, with ``run``, runs), with every mistake of the user as a :class:`UserError`.

    The hyper-parameters of a checkpoint come before all other options, which win.
    """
    start = 1 if run else 0  # after the subcommand
    defaults = ["--config", trained.config] if trained else []
    with plain_errors():
        options = with_run_folder(with_shipped_configs([*arguments[:start], *defaults, *arguments[start:]]))
        return ZeroLabelCLI(options, run, trained, exports, change)
