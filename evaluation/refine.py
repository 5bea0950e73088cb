"""Refinement of class maps: along the edges of the image (PAMR), or among similar patches (IFSeg).

PAMR is pixel-adaptive mask refinement (Araslanov and Roth, CVPR 2020).

The affinity of a pixel u to a neighbour v is softmax over its neighbours of mean_channels(-|I_u - I_v| / (0.1 sigma_u)),
sigma the standard deviation over the neighbourhood, with eight neighbours per dilation and replicated borders. One
iteration replaces a map by its affinity-weighted neighbours. The step is linear in the map, so classes can be refined
a chunk at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

_OFFSETS = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if (dy, dx) != (0, 0)]


class Pamr:
    """Refines maps (q, R, S) of the image (3, R, S) in [0, 1] that it was made for."""

    def __init__(self, image_3RS: Tensor, dilations: Sequence[int], iterations: int) -> None:
        self.dilations, self.iterations = tuple(dilations), iterations
        neighbours_3nRS = torch.stack([*self._neighbours(image_3RS)], dim=1)
        centre = image_3RS[:, None]
        # sigma over the neighbours and, once per dilation, the pixel itself
        samples = torch.cat([neighbours_3nRS, centre.expand(-1, len(self.dilations), -1, -1)], dim=1)
        sigma = samples.std(dim=1, keepdim=True)
        distance = (neighbours_3nRS - centre).abs() / (1e-8 + 0.1 * sigma)
        self.affinity_nRS = torch.softmax(-distance.mean(0), dim=0)

    def __call__(self, maps_qRS: Tensor) -> Tensor:
        for _ in range(self.iterations):
            averaged = torch.zeros_like(maps_qRS)
            for affinity_RS, neighbour_qRS in zip(self.affinity_nRS, self._neighbours(maps_qRS), strict=True):
                averaged.addcmul_(neighbour_qRS, affinity_RS)
            maps_qRS = averaged
        return maps_qRS

    def _neighbours(self, maps: Tensor) -> Iterator[Tensor]:
        """The maps (c, R, S) as each of the 8 x dilations neighbours has them."""
        height, width = maps.shape[-2:]
        for d in self.dilations:
            padded = F.pad(maps[None], (d, d, d, d), mode="replicate")[0]
            for dy, dx in _OFFSETS:
                yield padded[:, d + dy * d :, d + dx * d :][:, :height, :width]


def average_neighbours(probabilities: Tensor, features: Tensor, count: int, steps: int) -> Tensor:
    """Replaces each cell's probabilities, ``steps`` times, by the mean over its most similar cells, itself included.

    Cosines are float32 whatever the run's precision: bfloat16 has eight bits, which near 1 tell hardly any two cells apart.

    Args:
        probabilities: (B, Q, h, w).
        features: (B, C, h, w), compared by cosine.
        count: cells that are averaged (k).
        steps: repetitions.
    """
    with torch.autocast(features.device.type, enabled=False):
        unit = F.normalize(features.float().flatten(2), dim=1)
        similarity_BLL = unit.transpose(1, 2) @ unit
    nearest_BLk = similarity_BLL.topk(min(count, similarity_BLL.shape[-1])).indices
    picture = torch.arange(len(features), device=features.device)[:, None, None]
    smooth_BLQ = probabilities.flatten(2).transpose(1, 2)
    for _ in range(steps):
        smooth_BLQ = smooth_BLQ[picture, nearest_BLk].mean(2)
    return smooth_BLQ.transpose(1, 2).unflatten(2, probabilities.shape[2:])
