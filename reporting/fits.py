"""Trainings of a comparison, each done once and kept: what was learnt, how long it took, what it learnt from."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, Trainer
from lightning.pytorch.utilities import rank_zero_only

from common.code import code_of
from common.kept import Kept, key_of
from common.restorable import learnt_state, load_learnt
from common.weights import weights_hash

FIGURE = "figure"  # among a fit's tensors: the PNG of what it learnt from


def writes() -> bool:
    """Whether this process is the first; known before a process group is."""
    return not getattr(rank_zero_only, "rank", 0)


@dataclass(frozen=True)
class Training:
    """How a method came by its weights: seconds, devices and images a step, None without a training; and the figure of it."""

    seconds: float | None = None
    devices: int | None = None
    images_per_step: int | None = None
    figure: bytes | None = None


class Learnt(Callback):
    """Remembers what a training learnt, before the model makes of it what is read (``Segmenter.as_read``)."""

    def on_fit_end(self, trainer: Trainer, pl_module: Any) -> None:
        self.state = {name: value.clone() for name, value in learnt_state(pl_module).items()}


class Fits:
    """The trainings that a comparison keeps in a folder."""

    def __init__(self, folder: Path, devices: int) -> None:
        self.kept, self.devices = Kept("fits", folder, required=True), devices

    def train(self, model: Any, data: Any, trainer: Trainer, made_by: dict[str, Any]) -> Training:
        """Trains, or loads what an earlier start trained."""
        images_per_step = data.train_batch_size * self.devices * trainer.accumulate_grad_batches
        key = key_of(
            **trained_by(made_by, type(model).read_options),
            weights=weights_hash(model),
            pictures=data.training_content(),
            asked=_asked(model, data),
            shared=[self.devices, images_per_step],
            code=code_of(type(model), type(data)),
        )
        entry = self.kept.read(key)
        if entry is not None:
            png = entry.tensors.pop(FIGURE, None)
            load_learnt(model, entry.tensors)
            figure = None if png is None else png.numpy().tobytes()
            return Training(entry.note["seconds"], self.devices, images_per_step, figure)
        print(f"training {type(model).__name__} ...", flush=True)
        learnt = Learnt()
        trainer.callbacks.append(learnt)  # type: ignore[attr-defined]  # Lightning sets it
        started = time.perf_counter()
        trainer.fit(model, data)
        seconds = time.perf_counter() - started
        if writes():
            drawn = {} if model.figure is None else {FIGURE: torch.frombuffer(bytearray(model.figure), dtype=torch.uint8)}
            self.kept.write(key, learnt.state | drawn, {"seconds": seconds})
        return Training(seconds, self.devices, images_per_step, model.figure)


def trained_by(made_by: dict[str, Any], read_options: frozenset[str]) -> dict[str, Any]:
    """A row's configuration without the options that only the reading of trained weights follows."""
    model = made_by["config"].get("model", {})
    model = {"class_path": model} if isinstance(model, str) else model
    arguments = {name: value for name, value in model.get("init_args", {}).items() if name not in read_options}
    chosen = {name: value for name, value in made_by["set"].items() if name.rpartition(".")[2] not in read_options}
    return made_by | {"config": made_by["config"] | {"model": model | {"init_args": arguments}}, "set": chosen}


def _asked(model: Any, data: Any) -> list[Any]:
    """What the training's words become: a file of words, a shipped vocabulary or a preset may change under its name."""
    vocabulary = getattr(data, "vocabulary", None)
    if vocabulary is None:
        return []
    model.use_vocabulary(vocabulary)
    rules = model.followed_rules() | model.training_rules()
    return [model.vocabulary.hash, model.words, {rule: v for rule, v in model.protocol.learnt_by.items() if rule in rules}]
