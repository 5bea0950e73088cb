"""SC-CLIP (Bai et al., 2024): a CLIP's own earlier layers calibrate what its last block says of patches.

1. Outliers among the last tokens, which drew attention from everywhere, are replaced by their neighbours' mean.
2. Tokens of a middle layer, where likeness still means the same thing, say which patches belong together: they gather the last
   tokens before the last block, and stand beside k k^T in its attention.
3. Tokens of several layers go the same way, and an early layer's likeness gathers the results.

Shapes: B pictures, (h, w) patch grid, n = h*w, D transformer width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from backbones.blocks import Layers, heads_of, joined

NEIGHBOURS = 30
OUTLIERS = 0.05  # share of the patches
ALIKE = 0.4  # cosine, beta
SHARPNESS = 3.0  # gamma
CLASS_SHARE = 0.3  # of the class token, added to every patch
GATHERING, LATE, LEVELS = 9, 4, (4, 10)  # blocks of twelve, counted from 1


def calibrated(layers: Layers) -> Tensor:
    """(B, 1 + n, D), what stands for the last block's output; row 0 is the class token that went in."""
    class_token, patches = layers.tokens[-1][:, :1], layers.tokens[-1][:, 1:]
    odd = outliers(patches)
    patches = repaired(patches, odd, layers.grid)
    middle = likeness(repaired(layers.tokens[layers.place(GATHERING)][:, 1:], odd, layers.grid))
    early = likeness(layers.tokens[layers.place(LATE)][:, 1:])
    first, last = (layers.place(block) for block in LEVELS)
    levels = torch.stack(layers.tokens[first : last + 1]).sum(0)
    found = torch.zeros_like(patches)
    for tokens, whole in ((gathered(patches, middle), class_token), (levels[:, 1:], levels[:, :1])):
        found = found + gathered(_last_block(layers, tokens, middle) + CLASS_SHARE * whole, early)
    return torch.cat([class_token, found], 1)


def outliers(patches: Tensor) -> Tensor:
    """(B, n) bool: patches (B, n, D) whose local outlier factor is above all but a twentieth of the others'.

    As released: the reach of a patch is its distance to its farthest of 30 neighbours, whoever looks (in LOF it is the
    neighbour's), so that the factor is that distance times the mean of 1 / the neighbours' own.
    """
    neighbours = min(NEIGHBOURS, patches.shape[1] - 1)
    if neighbours < 1:
        return torch.zeros(patches.shape[:2], dtype=torch.bool, device=patches.device)
    distance, index = torch.cdist(patches.float(), patches.float()).square().topk(neighbours + 1, largest=False)
    reach = distance[:, :, -1]
    near = reach.gather(1, index[:, :, 1:].flatten(1)).unflatten(1, index[:, :, 1:].shape[1:])
    factor = reach * near.reciprocal().mean(2)
    return factor > factor.quantile(1 - OUTLIERS, dim=1, keepdim=True)


def repaired(patches: Tensor, odd: Tensor, grid: tuple[int, int]) -> Tensor:
    """Patches (B, n, D) with the odd ones (B, n) replaced by the mean of those of their eight neighbours that are not odd."""
    kept = (~odd)[:, None].to(patches).unflatten(2, grid)
    sums, counts = (
        F.avg_pool2d(maps, 3, stride=1, padding=1, divisor_override=1).flatten(2).transpose(1, 2)
        for maps in (patches.transpose(1, 2).unflatten(2, grid) * kept, kept)
    )
    return torch.where(odd[..., None] & (counts > 0), sums / counts.clamp_min(1), patches)


def likeness(patches: Tensor) -> Tensor:
    """Cosines (B, n, n) of patches (B, n, D)."""
    unit = F.normalize(patches, dim=-1)
    return unit @ unit.transpose(1, 2)


def gathered(patches: Tensor, alike: Tensor) -> Tensor:
    """Means of patches (B, n, D) over those alike enough, weighted by their cosines (B, n, n)."""
    weight = alike.masked_fill(alike < ALIKE, 0)
    return (weight / (weight.sum(-1, keepdim=True) + 1e-6)) @ patches


def _last_block(layers: Layers, patches: Tensor, alike: Tensor) -> Tensor:
    """Patches (B, n, D) after the last block's attention alone, half of it by key, half by likeness (B, n, n)."""
    _, k, v = heads_of(layers.last, layers.last.ln_1(patches))
    logits = SHARPNESS * (alike - alike.mean((1, 2), keepdim=True))
    by_likeness = logits.masked_fill(logits < 0, float("-inf")).softmax(-1)
    mixed = (by_likeness[:, None] @ v + F.scaled_dot_product_attention(k, k, v)) / 2
    return joined(layers.last, mixed)
