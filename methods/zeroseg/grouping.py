"""Segment tokens: transformer layers with learnt group tokens, and grouping blocks that deal patches to them.

GroupViT (CVPR 2022), section 3.2, as ZeroSeg (ICCV 2023) uses it. Shapes: B pictures, L patches or segments, S group tokens
(and segments made of them), D width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Noise = Callable[..., Tensor]  # uniform numbers (B, *shape) in (0, 1), a picture's own


@dataclass(frozen=True)
class GroupingRules:
    """How patches choose their group.

    Attributes:
        centre_keys: DEVIATION: the mean key over the patches is taken off, so that no group wins by what all share.
        mixing: group tokens pass into the segments, and the segments through an MLP. Off is a DEVIATION: a segment is then
            the mean of its patches and nothing else.
    """

    centre_keys: bool = False
    mixing: bool = True


class GroupingBlock(nn.Module):
    """Patches (B, L, D) and group tokens (B, S, D) -> segments (B, S, D): every patch joins one group."""

    def __init__(self, width: int, heads: int, tokens: int, rules: GroupingRules) -> None:
        super().__init__()
        self.rules = rules
        self.norm_tokens, self.norm_x = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mix_tokens = mlp(tokens, width // 2, tokens)
        self.norm_mixed, self.norm_crossed = nn.LayerNorm(width), nn.LayerNorm(width)
        self.cross = nn.MultiheadAttention(width, heads, batch_first=True)
        self.cross_norm, self.cross_mlp = nn.LayerNorm(width), mlp(width, 4 * width, width)
        self.q, self.k, self.v, self.out = (nn.Linear(width, width) for _ in range(4))
        self.norm_out, self.mlp_out = nn.LayerNorm(width), mlp(width, 4 * width, width)
        if not rules.mixing:
            for part in (self.norm_out, self.mlp_out):
                part.requires_grad_(False)  # unused: DDP would wait for its gradient

    def forward(self, x: Tensor, tokens: Tensor, noise: Noise | None) -> tuple[Tensor, Tensor]:
        """Segments (B, S, D) and the soft assignment (B, S, L), which sums to 1 over the groups.

        Args:
            x: patches, or the segments of the stage before.
            tokens: group tokens after this stage's layers.
            noise: of the Gumbel softmax in training; None for the plain argmax of evaluation.
        """
        x = self.norm_x(x)
        p = self.norm_mixed(self.mix_tokens(self.norm_tokens(tokens).mT).mT)
        p = p + self.cross(p, x, x, need_weights=False)[0]
        p = self.norm_crossed(p + self.cross_mlp(self.cross_norm(p)))
        keys = self.k(x)
        if self.rules.centre_keys:
            keys = keys - keys.mean(1, keepdim=True)
        logits_BSL = (self.q(p) @ keys.mT).float() * keys.shape[-1] ** -0.5
        hard_BSL = hard_assignment(logits_BSL, noise)
        means = (hard_BSL / (hard_BSL.sum(-1, keepdim=True) + 1)).to(x.dtype) @ self.v(x)  # + 1: GroupViT's epsilon
        segments = self.out(means)
        if self.rules.mixing:
            segments = segments + p
            segments = segments + self.mlp_out(self.norm_out(segments))
        return segments, logits_BSL.softmax(1)


def hard_assignment(logits_BSL: Tensor, noise: Noise | None) -> Tensor:
    """One group per patch, one-hot over S; with noise drawn by the Gumbel trick. The gradient is the softmax's."""
    if noise is not None:
        gumbel = -(-noise(*logits_BSL.shape[1:]).clamp(1e-9, 1 - 1e-7).log()).log()
        logits_BSL = logits_BSL + gumbel.to(logits_BSL)
    soft = logits_BSL.softmax(1)
    hard = F.one_hot(logits_BSL.argmax(1), logits_BSL.shape[1]).mT.to(soft)
    return hard - soft.detach() + soft


class SegmentationHead(nn.Module):
    """Layers over patches and group tokens, a grouping block after each stage, and layers over the last segments.

    Args:
        width: D.
        heads: of attention.
        group_tokens: of each stage, (32, 8) for ZeroSeg.
        depths: layers of each stage and of the last part, (2, 2, 1) for ZeroSeg.
        rules: of the grouping blocks.
    """

    def __init__(self, width: int, heads: int, group_tokens: list[int], depths: list[int], rules: GroupingRules) -> None:
        super().__init__()
        self.stages = nn.ModuleList(_layers(width, heads, depth) for depth in depths[:-1])
        self.last = _layers(width, heads, depths[-1])
        self.blocks = nn.ModuleList(GroupingBlock(width, heads, count, rules) for count in group_tokens)
        self.tokens = nn.ParameterList(torch.zeros(count, width) for count in group_tokens)
        self.carry = nn.ModuleList(Carry(width, before, after) for before, after in pairwise(group_tokens))
        self.norm = nn.LayerNorm(width)
        self.apply(_initialise)
        nn.init.trunc_normal_(self.tokens[0], std=0.02)  # the later stages' start at 0

    def forward(self, x: Tensor, noise: Noise | None = None) -> tuple[Tensor, Tensor]:
        """Patches (B, L, D) -> segment tokens (B, m, D) and the soft map (B, m, L) over all stages."""
        assignment, carried = None, None
        for i, (layers, block) in enumerate(zip(self.stages, self.blocks, strict=True)):
            tokens = self.tokens[i].expand(x.shape[0], -1, -1).to(x.dtype)
            if carried is not None:
                tokens = tokens + self.carry[i - 1](carried)
            together = layers(torch.cat([x, tokens], 1))
            x, carried = together.split([x.shape[1], tokens.shape[1]], 1)
            x, soft_BSL = block(x, carried, noise)
            assignment = soft_BSL if assignment is None else soft_BSL @ assignment
        assert assignment is not None
        return self.norm(self.last(x)), assignment


class Carry(nn.Module):
    """The group tokens (B, S, D) of one stage, handed to the next (B, S', D)."""

    def __init__(self, width: int, before: int, after: int) -> None:
        super().__init__()
        self.norm, self.mix = nn.LayerNorm(width), mlp(before, width // 2, after)

    def forward(self, tokens: Tensor) -> Tensor:
        mixed: Tensor = self.mix(self.norm(tokens).mT).mT
        return mixed


def mlp(into: int, hidden: int, out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(into, hidden), nn.GELU(), nn.Linear(hidden, out))


def _layers(width: int, heads: int, depth: int) -> nn.Sequential:
    options = {"dropout": 0.0, "activation": "gelu", "batch_first": True, "norm_first": True}
    return nn.Sequential(*(nn.TransformerEncoderLayer(width, heads, 4 * width, **options) for _ in range(depth)))  # type: ignore[arg-type]


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.MultiheadAttention):
        nn.init.trunc_normal_(module.in_proj_weight, std=0.02)
