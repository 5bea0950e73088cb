"""ResCLIP (Yang et al., CVPR 2025): what the last block's attention to itself lacks comes from elsewhere in CLIP.

1. Residual cross-correlation self-attention (RCS): the middle blocks' plain attention q k^T still knows which patches belong
   together; its mean joins the weights of the last block's self-self attention.
2. Semantic feedback refinement (SFR): a first segmentation says which patches are of one class, and which of those hang
   together; that map joins the logits of a second pass.

Both join as tau * ((1 - lambda) * own + lambda * map), the base being SCLIP's, ClearCLIP's or NACLIP's attention.

Shapes: B pictures, (h, w) patch grid, n = h*w, D transformer width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from open_clip.transformer import ResidualAttentionBlock
from torch import Tensor

from backbones.attention import NACLIP_SIGMA, RULES, Heads, Rule, gaussian_bias
from backbones.blocks import at_depth, heads_of

Base = Literal["naclip", "sclip", "clearclip"]
MIDDLE = range(6, 10)  # blocks of twelve, counted from 1; in deeper ViTs the released code takes the same four


@dataclass(frozen=True)
class Joining:
    """How a map joins an attention: ``tau * ((1 - share) * own + share * map)``; ``share`` is the paper's lambda."""

    tau: float
    share: float

    def __call__(self, own: Tensor, map_: Tensor) -> Tensor:
        return self.tau * ((1 - self.share) * own + self.share * map_)


def middle_attention(blocks: Sequence[ResidualAttentionBlock], x: Tensor) -> tuple[Tensor, Tensor]:
    """What the last block sees, (B, 1 + n, D), and RCS's map (B, heads, 1 + n, 1 + n), whose rows sum to 1.

    Args:
        blocks: all of them.
        x: (B, 1 + n, D), what the first one sees.
    """
    middle = {at_depth(block, len(blocks), max(12, len(blocks))) for block in MIDDLE}
    maps = []
    for number, block in enumerate(blocks[:-1], 1):
        if number in middle:
            q, k, _ = heads_of(block, block.ln_1(x))
            maps.append(_logits(q, k).softmax(-1))
        x = block(x)
    return x, torch.stack(maps).mean(0)


def refined(base: Base, rcs: tuple[Joining, Tensor], sfr: tuple[Joining, Tensor] | None = None) -> Rule:
    """The base's rule with RCS's map (B, heads, 1 + n, 1 + n) in its weights and SFR's (B, 1 + n, 1 + n) in its logits."""

    def mix(heads: Heads) -> Tensor:
        sources = {"naclip": [heads.k], "clearclip": [heads.q], "sclip": [heads.q, heads.k]}[base]
        logits = [_logits(source, source) for source in sources]
        if sfr is not None:
            logits = [sfr[0](one, sfr[1][:, None]) for one in logits]
        if base == "naclip":
            logits = [one + gaussian_bias(*heads.grid).to(one) for one in logits]
        return rcs[0](sum(one.softmax(-1) for one in logits), rcs[1]) @ heads.v  # type: ignore[arg-type]  # sum of tensors

    rule = RULES[base]
    assert isinstance(rule, Rule)
    return replace(rule, mix=mix)


def feedback_map(labels: Tensor) -> Tensor:
    """SFR's map (B, 1 + n, 1 + n) of the patches' labels (B, h, w); 0 for the class token, at most 1.

    Patches of one label weigh 1 where a path of that label leads from one to the other, less the farther apart they are where
    none does. Rows are smoothed in reading order (as released: over the ends of the grid's rows) and sum to 1 before the whole
    is divided by its maximum.
    """
    flat = labels.flatten(1)
    same = flat[:, :, None] == flat[:, None]
    distance, path = connected(labels)
    weight = same * torch.where(path, 1.0, torch.exp(-distance / distance.max().clamp_min(1)))
    smooth = _smoothed(weight)
    rows = smooth / (smooth.sum(-1, keepdim=True) + 1e-8)
    return F.pad(rows / rows.amax((1, 2), keepdim=True), (1, 0, 1, 0))


def connected(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Chessboard distances (n, n), and whether (B, n, n) the straight path from a patch to another keeps its label.

    As released: the path is sampled in as many steps as the grid's longest has, of which as many are looked at as the patches
    are apart; so for near patches only its beginning.
    """
    y, x = torch.meshgrid(*(torch.arange(side, device=labels.device) for side in labels.shape[1:]), indexing="ij")
    start, end = torch.stack([y, x], -1).reshape(-1, 1, 2), torch.stack([y, x], -1).reshape(1, -1, 2)
    distance = (end - start).abs().amax(-1)
    flat = labels.flatten(1)
    path = torch.ones(len(flat), *distance.shape, dtype=torch.bool, device=labels.device)
    for step, t in enumerate(torch.linspace(0, 1, int(distance.max()) + 1, device=labels.device)):
        row, column = (start * (1 - t) + end * t).round().long().unbind(-1)
        path &= (flat[:, row * labels.shape[2] + column] == flat[:, :, None]) | (step > distance)
    return distance, path


def _smoothed(rows: Tensor, sigma: float = NACLIP_SIGMA) -> Tensor:
    """Rows (B, n, n) convolved with a Gaussian."""
    size = min(rows.shape[-1], int(6 * sigma + 1)) | 1  # odd
    offset = torch.arange(size, device=rows.device) - size // 2
    kernel = torch.exp(-offset.square() / (2 * sigma**2))
    kernel = (kernel / kernel.sum())[None, None]
    return F.conv1d(rows.flatten(0, 1)[:, None], kernel, padding=size // 2)[:, 0].view_as(rows)


def _logits(a: Tensor, b: Tensor) -> Tensor:
    return a @ b.transpose(-2, -1) * a.shape[-1] ** -0.5
