"""IFSeg's image-free step and its inference (OFA-tiny, 171 classes) against plain ones, as the reference computes them.

The rival shares weights and equations. What it does plainly: relative positions looked up bucket by bucket, a bias of its own
for every picture and head, attention as an explicit softmax in float32, norms after the trunk's convolutions, a bag of padded
pieces for every cell, and all logits upsampled to 512 x 512 at once.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any
from unittest.mock import patch

import common.compat  # noqa: F401  (must come before what imports torchvision)

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models.resnet import Bottleneck

from backbones.ofa import positions
from backbones.ofa.layers import Attention
from backbones.ofa.trunk import Trunk
from benchmarks.timing import Ratio, paired, peak_memory, print_added_memory
from datamodules import DATAMODULES
from evaluation import Vocabulary
from methods import METHODS
from methods.ifseg.word_maps import draw_maps

MAPS = 2


class PlainAttention(Attention):
    """The same numbers with every matrix written out."""

    def forward(self, x: Tensor, memory: Tensor, bias: Tensor) -> Tensor:
        q, k, v = (
            projection(source).unflatten(-1, (self.heads, -1)).transpose(1, 2).flatten(0, 1)
            for projection, source in ((self.q_proj, x), (self.k_proj, memory), (self.v_proj, memory))
        )
        scores = torch.bmm(q * (2 * q.shape[-1]) ** -0.5, k.transpose(1, 2))
        scores = scores + bias.expand(len(x), self.heads, *scores.shape[1:]).clone().flatten(0, 1)
        out = torch.bmm(scores.float().softmax(-1).type_as(scores), v).unflatten(0, (len(x), self.heads))
        out = out * self.c_attn[:, None, None]
        attended: Tensor = self.out_proj(out.transpose(1, 2).flatten(2))
        return attended


@cache
def buckets(grid: int, side: int) -> Tensor:
    """(L, L) row of the table for each pair of cells."""
    y, x = torch.arange(grid).repeat_interleave(grid), torch.arange(grid).repeat(grid)
    return (y[:, None] - y + side - 1) * (2 * side - 1) + x[:, None] - x + side - 1


def plain_grid_bias(table: nn.Module, grid: int, side: int, height: int, width: int, out: Tensor | None = None) -> Tensor:
    """All that each cell sees is resized, then the cells."""
    bias: Tensor = table(buckets(grid, side)).permute(2, 0, 1)
    if (height, width) != (grid, grid):
        for _ in range(2):
            grids = bias.reshape(-1, 1, grid, grid)
            grids = F.interpolate(grids, (height, width), mode="bilinear", align_corners=False)
            bias = grids.reshape(len(bias), -1, height * width).transpose(1, 2)
    return bias if out is None else out.copy_(bias)


def plain_trunk(trunk: Trunk, images: Tensor) -> Tensor:
    """torchvision's layers one after the other."""
    x = trunk.maxpool(trunk.relu(trunk.bn1(trunk.conv1(images))))
    for block in (*trunk.layer1, *trunk.layer2, *trunk.layer3):
        x = Bottleneck.forward(block, x)
    return x


@contextmanager
def plainly(model: nn.Module) -> Iterator[None]:
    attentions = [module for module in model.modules() if isinstance(module, Attention)]
    for attention in attentions:
        attention.__class__ = PlainAttention
    with patch.object(positions, "grid_bias", plain_grid_bias), patch.object(Trunk, "forward", plain_trunk):
        yield
    for attention in attentions:
        attention.__class__ = Attention


def made() -> tuple[Any, Tensor]:
    """An IFSeg that asks 171 classes of two pieces each (171, 2)."""
    torch.manual_seed(0)
    model: Any = METHODS["IFSeg"](size="tiny", weights=None, dropout=0.0, drop_path=0.0, protocol="ifseg")
    model.log = lambda *_, **__: None
    vocabulary = Vocabulary.load("coco_stuff171")
    pieces = torch.randint(4, 50000, (vocabulary.num_classes, 2))
    model.embed_vocabulary = lambda words: None  # the published tokenizer's files are not here
    model.use_vocabulary(vocabulary)
    model.class_embeddings = model.ofa.words[pieces].mean(1).detach()
    model.source = torch.cat([torch.tensor([0]), pieces[:, 0], torch.randint(4, 50000, (66,)), torch.tensor([2])])[None]
    return model, pieces


def inference() -> tuple[Callable[[], Tensor], Callable[[], Tensor]]:
    """The label map of one picture of 512 x 683, and the plain one."""
    model, _ = made()
    picture = torch.rand(3, 512, 683)

    def ours() -> Tensor:
        labels: Tensor = model.segment([picture])[0].labels
        return labels

    def plain() -> Tensor:
        model.eval()
        with plainly(model), torch.no_grad():
            logits = F.interpolate(model(picture[None]), picture.shape[1:], mode="bilinear", align_corners=False)
            return logits.softmax(1).argmax(1)[0].to(torch.uint8)

    return ours, plain


def make() -> tuple[Callable[[], object], Callable[[], object]]:
    """Our step and the plain one; both forward and backward."""
    model, pieces = made()
    count = len(pieces)
    batch = next(iter(DATAMODULES["WordMaps"]("coco_stuff171", train_batch_size=MAPS, num_workers=0).train_dataloader()))

    def ours() -> float:
        model.zero_grad()
        loss = model.training_step(batch, 0)
        loss.backward()
        return float(loss.detach())

    def plain() -> float:
        model.zero_grad()
        with plainly(model):
            ids = draw_maps(batch, count, 32)
            cells = F.embedding_bag(pieces[ids].reshape(-1, 2), model.ofa.words, mode="mean").reshape(MAPS, 32, 32, -1)
            encoded = model.ofa.encode_map(cells, model.source.expand(MAPS, -1))
            logits = model.name_cells(encoded).float().transpose(1, 2).unflatten(2, (32, 32))
            logits = F.interpolate(logits, (512, 512), mode="bilinear", align_corners=False)
            loss = nn.functional.cross_entropy(logits, draw_maps(batch, count, 512))
            loss.backward()
        return float(loss.detach())

    return ours, plain


def products(call: Callable[[], object], side: int = 2048) -> Callable[[], object]:
    """Products of square matrices with as many floating-point operations as the call's matrix products and convolutions."""
    with FlopCounterMode(display=False) as counter:
        call()
    matrix, count = torch.rand(side, side), round(counter.get_total_flops() / (2 * side**3))
    return lambda: [matrix @ matrix for _ in range(count)]


def run() -> Iterator[Ratio]:
    ours, plain = make()
    assert abs(ours() - plain()) < 1e-4  # type: ignore[operator]
    yield paired("the arithmetic of an image-free step alone, as products of matrices", ours, products(ours), runs=3)
    yield paired(f"an image-free step, {MAPS} maps, 171 classes, OFA-tiny, against a plain one", ours, plain, runs=3)
    yield peak_memory("the same: added memory", "benchmarks.image_free")
    ours, plain = inference()
    assert (ours() != plain()).float().mean() < 1e-3  # type: ignore[operator, attr-defined]
    yield paired("inference, one picture of 512 x 683, against a plain one", ours, plain, runs=3)


if __name__ == "__main__":
    print_added_memory(dict(zip(("ours", "rival"), make(), strict=True))[sys.argv[1]])
