"""CASS's attention (CVPR 2025, section 3.2): CLIP's last block takes the graph of a self-supervised ViT into its own.

Both networks' keys make a graph of patches in every head, k k^T. Their spectra say which head of the one is least like which of
the other, so that each pair complements itself; of the ViT's graph its strongest ten eigenvectors remain, and it joins
CLIP's the more the less alike the two are. A Gaussian of the distance (NACLIP's) comes on top; no residual, no MLP.

Shapes: B pictures, H heads, (h, w) CLIP's patch grid, n = h*w, d width of a head, D transformer width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from backbones.attention import gaussian_bias
from backbones.blocks import Layers, heads_of, joined

SPECTRUM, RANK = 20, 10  # eigenvalues that are compared; eigenvectors that are kept
INFLUENCE = 10.0  # of the ViT's graph, times the distance of the spectra
LOWEST, HIGHEST = 0.5, 1.5  # of the kept eigenvalues, times their least and largest (dynamic eigenscaling)


def distilled(layers: Layers, keys: Tensor, eigenscaling: bool = True) -> Tensor:
    """What stands for the last block's output, (B, n, D).

    Args:
        layers: CLIP before its last block.
        keys: (B, H * d', I, J) of the ViT's last block on any grid; it has as many heads as CLIP.
        eigenscaling: whether the kept eigenvalues are drawn apart.
    """
    _, own, v = (part[:, :, 1:] for part in heads_of(layers.last, layers.last.ln_1(layers.tokens[-1])))
    theirs = F.interpolate(keys, layers.grid, mode="bilinear", align_corners=False)
    theirs = theirs.unflatten(1, (own.shape[1], -1)).flatten(3).transpose(2, 3)
    logits = joint_graph(own, in_range_of(own, theirs, (1, 2, 3)), eigenscaling)
    logits = logits + gaussian_bias(*layers.grid)[1:, 1:].to(logits)
    return joined(layers.last, logits.softmax(-1) @ v)


def joint_graph(own: Tensor, theirs: Tensor, eigenscaling: bool) -> Tensor:
    """CLIP's graph with the ViT's in it, (B, H, n, n), of keys (B, H, n, d) and (B, H, n, d')."""
    graph = own @ own.transpose(2, 3) * own.shape[-1] ** -0.5
    values, vectors = eigen(theirs)
    pairs, distance = complementary(spectrum(values), spectrum(eigen(own)[0]))
    other = low_rank(values.to(graph), vectors.to(graph), eigenscaling)
    other = in_range_of(graph, other.take_along_dim(pairs[..., None, None], 1), (2, 3))
    influence = (INFLUENCE * distance)[..., None, None].to(graph)
    return (influence * other + graph) / (influence + 1)


def eigen(keys: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues (B, H, r), largest first, and eigenvectors (B, H, n, r) of k k^T, r = min(n, d); in double precision."""
    u, s, _ = torch.linalg.svd(keys.double(), full_matrices=False)
    return s.square(), u


def spectrum(values: Tensor) -> Tensor:
    """The largest 20 eigenvalues (B, H, 20) as shares of their sum; a graph of fewer has zeros."""
    return F.normalize(F.pad(values, (0, SPECTRUM - values.shape[-1])), p=1, dim=-1)


def complementary(theirs: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
    """For each head of CLIP a head of the ViT, (B, H), and how far apart the two spectra of the pair are, (B, H).

    The distance is Wasserstein's between the sorted shares, and its sum over the pairs the largest possible. As released, the
    ViT's head i is compared with CLIP's head j, and then CLIP's head i is joined by the ViT's head j; and the sum is single
    precision's, whose rounding decides where all spectra of one network are steeper than the other's: then every pairing is
    as good as another.
    """
    distance = (theirs[:, :, None] - own[:, None]).abs().sum(-1)
    pairs = torch.tensor([linear_sum_assignment(one)[1].tolist() for one in (1 - distance).float().cpu().numpy()])
    pairs = pairs.to(distance.device)
    return pairs, distance.take_along_dim(pairs[..., None], 2)[..., 0]


def low_rank(values: Tensor, vectors: Tensor, eigenscaling: bool) -> Tensor:
    """The graph (B, H, n, n) of the ten strongest eigenvectors, 0 between a patch and itself.

    The paper keeps as many as hold a share of the energy. The released code asks ten for it (of their own sum, which they
    always hold), in an approximation that is drawn; here they are exact.
    """
    values, vectors = values[..., :RANK], vectors[..., :RANK]
    if eigenscaling:
        values = ranged(values, LOWEST * values.amin(-1, True), HIGHEST * values.amax(-1, True), (-1,))
    graph = vectors * values[..., None, :] @ vectors.transpose(2, 3)
    return graph - torch.diag_embed(graph.diagonal(dim1=2, dim2=3))


def in_range_of(example: Tensor, x: Tensor, dims: tuple[int, ...]) -> Tensor:
    """x brought to the least and the largest value of an example, over some dimensions."""
    return ranged(x, example.amin(dims, True), example.amax(dims, True), dims)


def ranged(x: Tensor, low: Tensor, high: Tensor, dims: tuple[int, ...]) -> Tensor:
    """x brought to ``low`` ... ``high`` over some dimensions; what is all the same (NaN in the released code) is ``low``."""
    least, largest = x.amin(dims, True), x.amax(dims, True)
    return (x - least) / (largest - least).clamp_min(torch.finfo(x.dtype).tiny) * (high - low) + low
