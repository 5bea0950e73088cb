"""The attention rules of the training-free family: what the last blocks of a CLIP ViT do instead of plain attention.

All act on the queries, keys and values (B, heads, 1 + h*w, d) of a block, row 0 being the class token, and run on fused
attention. A rule also says whether the block's residual and feed-forward paths stay, and how many blocks it changes.
With more than one block the rule runs on a stream of its own beside the unchanged one (CLIP Surgery, section 3.1).
A rule may also read the tokens after every block and make the last one's output by itself (SC-CLIP).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from backbones.blocks import Layers
from backbones.sc_clip import calibrated
from common.errors import known

RuleName = Literal["clip", "maskclip", "maskclip_bare", "sclip", "naclip", "clearclip", "gem", "surgery", "sc_clip"]
NACLIP_SIGMA = 5.0  # patches


@dataclass(frozen=True)
class Heads:
    """One block's ``q``, ``k``, ``v`` (B, heads, 1 + h*w, d), its input ``x`` (B, 1 + h*w, D) after LayerNorm, the grid."""

    q: Tensor
    k: Tensor
    v: Tensor
    x: Tensor
    grid: tuple[int, int]


@dataclass(frozen=True)
class LayersRule:
    """How the tokens after all blocks but the last make dense tokens.

    Attributes:
        read: layers -> (B, 1 + h*w, D), what stands for the last block's output.
    """

    read: Callable[[Layers], Tensor]
    surgery: ClassVar[bool] = False  # classes are weighted by rules of the other kind alone


@dataclass(frozen=True)
class Rule:
    """How the last ``depth`` blocks make dense tokens.

    Attributes:
        mix: heads -> (B, heads, 1 + h*w, d), what replaces softmax(q k^T / sqrt(d)) v.
        residual: whether the block's input is added.
        feed_forward: whether the block's MLP follows.
        depth: number of blocks changed.
        surgery: whether classes are weighted by CLIP Surgery's feature surgery.
    """

    mix: Callable[[Heads], Tensor]
    residual: bool = True
    feed_forward: bool = True
    depth: int = 1
    surgery: bool = False


def _attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None, scale: float | None = None) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=scale)


def _naclip(heads: Heads) -> Tensor:
    """Keys attend to keys with a Gaussian of the distance added to the logits (NACLIP, eq. 3-5)."""
    return _attend(heads.k, heads.k, heads.v, gaussian_bias(*heads.grid).to(heads.q))


def gaussian_bias(rows: int, columns: int, sigma: float = NACLIP_SIGMA) -> Tensor:
    """(1 + n, 1 + n): exp(-distance^2 / (2 sigma^2)) between patches, 0 in the class token's row and column."""
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    places = torch.stack([y, x], -1).reshape(-1, 2).float()
    return F.pad(torch.exp(-torch.cdist(places, places).square() / (2 * sigma**2)), (1, 0, 1, 0))


def _gem(heads: Heads, iterations: int = 1) -> Tensor:
    """Mean over q, k, v of self-self attention on unit vectors, iterated, applied to v (GEM, section 3)."""
    scale = heads.x.norm(dim=-1).mean(-1) / math.sqrt(heads.q.shape[-1])  # (B,), per picture
    mixed = []
    for p in (heads.q, heads.k, heads.v):
        p = F.normalize(p, dim=-1)
        for _ in range(iterations):
            p = F.normalize(_attend(p * scale[:, None, None, None], p, p, scale=1.0), dim=-1)
        mixed.append(_attend(p * scale[:, None, None, None], p, heads.v, scale=1.0))
    return torch.stack(mixed).mean(0)


RULES: dict[str, Rule | LayersRule] = {
    "clip": Rule(lambda a: _attend(a.q, a.k, a.v)),
    "maskclip": Rule(lambda a: a.v),  # the official code: the value path inside the whole block
    "maskclip_bare": Rule(lambda a: a.v, residual=False, feed_forward=False),  # as the ClearCLIP repository reads it
    "sclip": Rule(lambda a: _attend(a.q, a.q, a.v) + _attend(a.k, a.k, a.v)),
    "naclip": Rule(_naclip, residual=False, feed_forward=False),
    "clearclip": Rule(lambda a: _attend(a.q, a.q, a.v), residual=False, feed_forward=False),
    "gem": Rule(_gem, feed_forward=False, depth=6),
    "surgery": Rule(lambda a: _attend(a.v, a.v, a.v), feed_forward=False, depth=6, surgery=True),
    "sc_clip": LayersRule(calibrated),
}


def rule_named(name: str) -> Rule | LayersRule:
    """Raises UserError for an unknown name, naming the known ones."""
    return RULES[known("attention rule", name, RULES)]
