"""CorrCLIP's patches (ICCV 2025): the regions of a picture say which patches CLIP's last block may mix.

*Scope*: a patch mixes values of its own region alone, where regions whose DINO features are alike are one; what lies in no mask
goes with anything that is more alike than usual. *Value*: it mixes them by the likeness of DINO's features, on DINO's grid. A
spatial branch does the same with tokens of earlier blocks, and a semantic branch gives each region a class token of its own,
which sees that region in every block. Names, numbers and what else is said here are of zdk258/CorrCLIP@103bc18, CorrCLIPv1.

Shapes: B pictures, (h, w) CLIP's patch grid, n = h*w, (I, J) DINO's, m = I*J, D transformer width, R regions.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from open_clip.transformer import ResidualAttentionBlock
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from backbones.blocks import Layers, heads_of, joined, values_mixed

SPATIAL_SHARE, SEMANTIC_SHARE = 1.0, 0.5  # ALPHA, BETA: weights of the branches beside the main one
SHARPNESS = 4.0  # TAU, which multiplies cosines here
ALIKE = 0.2  # EPS: regions no further from each other than this are one
SPATIAL_BLOCKS = {12: 5, 24: 12, 32: 28}  # depth of the ViT -> blocks of the spatial branch, which end two before the last
OTHER_DEPTHS = 4  # of any other depth, all but so many


def branches(blocks: list[ResidualAttentionBlock], layers: Layers, features: Tensor, regions: Tensor) -> tuple[Tensor, ...]:
    """What the main, spatial and semantic branches put before the final norm, (B, m, D) each.

    Args:
        blocks: all of CLIP's.
        layers: CLIP before the last of them.
        features: unit features (B, C, I, J) of the second tower.
        regions: numbers (B, I, J); the least of a picture is that of what lies in no mask.
    """
    grid = (features.shape[2], features.shape[3])
    regions = torch.stack([merged(*one) for one in zip(regions, features, strict=True)])
    weights = correlations(features, regions)
    early = torch.stack(spatial_tokens(layers)).mean(0)
    main, spatial = (values_mixed(layers, tokens, weights, grid) for tokens in (layers.tokens[-1], early))
    of_clip = nearest(regions, layers.grid)
    region = nearest(of_clip, grid).flatten(1)[..., None]
    tokens = region_tokens(blocks, layers, of_clip.flatten(1))
    return main, spatial, tokens.take_along_dim(region, 1)


def merged(regions: Tensor, features: Tensor) -> Tensor:
    """Numbers (I, J) from 0 on of one picture's regions once those that are alike are one; 0 is where no mask is.

    The released code calls DBSCAN with one sample, whose clusters are the connected parts of the graph of near neighbours. As
    there, a distance is what a cosine lacks of the largest one, and the region with the least number is taken to lie in no
    mask, also where masks cover everything.
    """
    values, number = regions.unique(return_inverse=True)
    if len(values) <= 2:
        return number
    own = F.one_hot(number.flatten(), len(values)).to(features)
    mean = F.normalize((own.T @ features.flatten(1).T) / own.sum(0)[:, None], dim=1)[1:]
    alike = mean @ mean.T
    part = connected_components((alike.max() - alike <= ALIKE).cpu().numpy(), directed=False)[1]
    return torch.cat([number.new_zeros(1), torch.as_tensor(part).to(number) + 1])[number]


def correlations(features: Tensor, regions: Tensor) -> Tensor:
    """Weights (B, m, m) with which patches are mixed, of unit features (B, C, I, J) and numbers (B, I, J) from 0 on.

    A patch in no mask that is no more alike to any than usual would see nothing (NaN in the released code); it keeps to itself
    (INFERRED).
    """
    unit, number = features.flatten(2), regions.flatten(1)
    alike = unit.transpose(1, 2) @ unit
    outside = number == 0
    loose = outside[:, :, None] | outside[:, None]
    seen = torch.where(loose, alike > alike.mean((1, 2), keepdim=True), number[:, :, None] == number[:, None])
    seen = seen | torch.eye(number.shape[1], dtype=torch.bool, device=seen.device)
    return (SHARPNESS * alike).masked_fill(~seen, float("-inf")).softmax(-1)


def spatial_tokens(layers: Layers) -> list[Tensor]:
    """Tokens after the blocks of the spatial branch; in a ViT of fewer than five, after the last that may be one (INFERRED)."""
    depth = len(layers.tokens) + 1
    end = max(depth - 2, 1)
    start = end - SPATIAL_BLOCKS.get(depth, depth - OTHER_DEPTHS)
    return layers.tokens[min(max(start, 0), end - 1) : end]


def region_tokens(blocks: list[ResidualAttentionBlock], layers: Layers, regions: Tensor) -> Tensor:
    """A class token for each region after all blocks, (B, R, D), of numbers (B, n) from 0 on.

    In each block it sees the picture's class token and the patches of its region, not itself; neither of them sees it.
    """
    number = torch.arange(int(regions.max()) + 1, device=regions.device)
    seen = F.pad(regions[:, None] == number[:, None], (1, 0), value=True)  # (B, R, 1 + n)
    x = layers.embedded[:, :1].expand(-1, len(number), -1)
    for block, tokens in zip(blocks, (layers.embedded, *layers.tokens), strict=True):
        q, _, _ = heads_of(block, block.ln_1(x))
        _, k, v = heads_of(block, block.ln_1(tokens))
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=seen[:, None])
        x = x + block.ls_1(joined(block, mixed))
        x = x + block.ls_2(block.mlp(block.ln_2(x)))
    return x


def nearest(regions: Tensor, grid: tuple[int, int]) -> Tensor:
    """Numbers (B, I, J) on another grid."""
    return F.interpolate(regions[:, None].float(), grid, mode="nearest")[:, 0].long()
