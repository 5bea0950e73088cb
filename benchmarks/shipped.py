"""Every shipped config, made to run where neither published weights nor data can be had.

A config on the embedded benchmark runs as it is. A published one is built at its published size with random weights and fed
random pictures of its own size. What stands in for a cache, a tokenizer's files or a slow text tower is here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest import mock

import torchvision_compat  # noqa: F401  (must come before lightning)

import numpy as np
import torch
import torch.nn.functional as F
import yaml
from PIL import Image
from torch import Tensor
from transformers import GroupViTConfig, GroupViTModel

import zerolabel_lightning
from backbones.views import view_count
from benchmarks.loading import make_voc
from datamodules import DataModule
from methods.mask_mining import IGNORED, Mined
from zerolabel_common import ROOT

KINDS = ("ifseg", "zeroseg", "freeseg", "training_free", "oracle", "pretrain", "groupvit.yaml")
PIECES = 2  # of a class name in OFA's published vocabulary, whose files are not here: most COCO-Stuff names have 1 to 3
QUIET = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary", "num_sanity_val_steps")
TRAINER = [f"--trainer.{name}={'0' if name.startswith('num') else 'false'}" for name in QUIET]
TRAINER += ["--trainer.limit_val_batches=0", "--trainer.accumulate_grad_batches=1", "--trainer.accelerator=cpu"]


def configs() -> list[str]:
    """Paths of all configs with a method and data, relative to the root."""
    found = sorted(path.relative_to(ROOT) for path in (ROOT / "configs").rglob("*.yaml"))
    return [str(path) for path in found if path.parts[1] in KINDS]


def published(config: str) -> bool:
    """Whether it needs weights or data that must be downloaded."""
    return "/data" in (ROOT / config).read_text().partition("\nmodel:")[2]


def made(config: str, options: list[str], folder: Path, batch: int | None, few: int) -> Any:
    """The CLI object (``model``, ``datamodule``, ``trainer``) of a config.

    Args:
        config: path relative to the root.
        options: more of the command line's.
        folder: for the random pictures, and what a run may write.
        batch: pictures or maps a training step; None for the config's own.
        few: training pictures, so that little is mined, embedded and kept before the first step.
    """
    arguments = yaml.safe_load((ROOT / config).read_text())["model"].get("init_args", {})
    random = [f"--model.{name}=null" for name in ("network_weights", "tokenizer") if name in arguments]
    random += ["--model.weights=null"] if str(arguments.get("weights", "")).startswith("/") else []
    random += ["--model.pretrained=null"] if arguments.get("pretrained") == "openai" else []
    # GroupViT knows random weights only at a tiny size; its library's defaults are the published one
    with mock.patch("methods.groupvit._published", side_effect=lambda *_: GroupViTModel(GroupViTConfig())):
        cli = zerolabel_lightning.build(
            ["--config", config, *random, *TRAINER, f"--trainer.default_root_dir={folder}", *options]
        )
    _few_pictures(cli.datamodule, folder, batch, few)
    if published(config):
        _stand_in(cli.model)
    return cli


def _few_pictures(data: Any, folder: Path, batch: int | None, few: int) -> None:
    """Read by the training process itself, so that no loader worker takes a core from what is measured."""
    nested = [part for part in vars(data).values() if isinstance(part, DataModule)]
    for part in (data, *nested):
        part.num_workers, part.prepare_data = 0, lambda: None
        if hasattr(part, "train_batch_size"):
            part.train_batch_size = batch or part.train_batch_size
        if hasattr(part, "train_pictures"):
            part.train_pictures = few
    if hasattr(data, "images"):
        data.images = str(folder / "pictures")
        _draw(folder / "pictures", data.size, few)
    elif type(data).__name__ == "VOC":
        make_voc(folder)
        data.root = folder


def _draw(folder: Path, size: int, count: int) -> None:
    folder.mkdir(exist_ok=True)
    for i in range(count):
        pixels = np.random.default_rng(i).integers(0, 256, (size, size, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{i:04d}.jpg")


def _stand_in(model: Any) -> None:
    """Random words, masks and views at their real shapes; making the real ones is no part of a training step."""
    kind = type(model).__name__
    if kind == "IFSeg":
        model.embed_vocabulary = lambda words: _name_randomly(model, len(words))
    elif kind == "FreeSeg":
        channels = model.backbone.visual.output_dim
        model.embed_words = lambda words: F.normalize(torch.randn(len(words), channels), dim=-1)
        model.on_fit_start = lambda: setattr(model, "mined", RandomMasks(len(model.words)))
    elif kind == "ZeroSeg":
        model.on_fit_start = lambda: setattr(model, "views", RandomViews(model))


def _name_randomly(model: Any, words: int) -> None:
    """The embeddings (Q, d) and the source text (1, T) of names of ``PIECES`` pieces each, and a prompt of twelve."""
    pieces = torch.randint(4, model.ofa.config.vocabulary - 2000, (words, PIECES))
    model.class_embeddings = model.ofa.words[pieces].mean(1).detach()
    text = [torch.tensor([0]), torch.randint(4, 50000, (12,)), pieces.flatten(), torch.tensor([2])]
    model.source = torch.cat(text)[None]


class RandomMasks:
    """As :class:`methods.mined_masks.MinedMasks`: half of the pixels labelled, every word active."""

    def __init__(self, words: int, size: int = 512) -> None:
        labels = torch.randint(words, (size, size))
        self.mined = Mined(labels.masked_fill(torch.rand(size, size) < 0.5, IGNORED).byte(), torch.ones(words).bool())

    def read(self, name: str) -> Mined:
        return self.mined


class RandomViews:
    """As :class:`backbones.view_cache.ViewCache`: views (B, n, C)."""

    def __init__(self, model: Any) -> None:
        self.shape = (view_count(model.grids), int(model.teacher.visual.output_dim))

    def __getitem__(self, index: Tensor) -> Tensor:
        return torch.randn(len(index), *self.shape)
