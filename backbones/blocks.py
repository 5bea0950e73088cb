"""What attention rules read of a CLIP ViT: the parts of a block, and the tokens after every block.

Shapes: B pictures, (h, w) patch grid, n = h*w, D transformer width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch.nn.functional as F
from open_clip.transformer import ResidualAttentionBlock
from torch import Tensor


@dataclass(frozen=True)
class Layers:
    """A batch of pictures before the last block.

    Attributes:
        tokens: (B, 1 + n, D) after each block but the last, the first block's first; row 0 is the class token.
        last: the last block, which has not run.
        grid: (h, w).
        embedded: (B, 1 + n, D), what the first block sees.
    """

    tokens: list[Tensor]
    last: ResidualAttentionBlock
    grid: tuple[int, int]
    embedded: Tensor

    def place(self, block: int, of: int = 12) -> int:
        """Position in ``tokens`` of a block that a paper counts from 1 in a ViT of ``of`` blocks; see :func:`at_depth`."""
        return at_depth(block, len(self.tokens) + 1, of) - 1


def at_depth(block: int, depth: int, of: int = 12) -> int:
    """The block, counted from 1, of a ViT of ``depth`` blocks for one that a paper counts in a ViT of ``of``; never the last.

    In a ViT of another depth it is the block at the same share of the depth (INFERRED).
    """
    return min(max(1, round(block * depth / of)), depth - 1)


def heads_of(block: ResidualAttentionBlock, normed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values (B, heads, tokens, d) of a block's normed input (B, tokens, D)."""
    attention = block.attn
    qkv = F.linear(normed, attention.in_proj_weight, attention.in_proj_bias)
    q, k, v = (part.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2) for part in qkv.chunk(3, dim=-1))
    return q, k, v


def joined(block: ResidualAttentionBlock, mixed: Tensor) -> Tensor:
    """The block's output projection of what its heads mixed: (B, heads, tokens, d) -> (B, tokens, D)."""
    return cast(Tensor, block.attn.out_proj(mixed.transpose(1, 2).flatten(2)))


def values_mixed(layers: Layers, tokens: Tensor, weights: Tensor, grid: tuple[int, int]) -> Tensor:
    """The last block's values of tokens, resized to a grid (I, J) and mixed there, alike in all heads: (B, I*J, D).

    No residual and no MLP.

    Args:
        layers: CLIP before its last block.
        tokens: what the block sees, (B, 1 + n, D).
        weights: (B, I*J, I*J), rows that sum to 1.
        grid: (I, J).
    """
    _, _, v = heads_of(layers.last, layers.last.ln_1(tokens))
    v = v[:, :, 1:].transpose(2, 3).flatten(1, 2).unflatten(2, layers.grid)
    v = F.interpolate(v, grid, mode="bilinear", align_corners=False)
    v = v.unflatten(1, (layers.last.attn.num_heads, -1)).flatten(3).transpose(2, 3)
    return joined(layers.last, weights[:, None] @ v)
