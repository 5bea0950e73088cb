"""ITSM, the image-text similarity map of ICLIP and FreeSeg: how much a patch looks like a word, between 0 and 1.

M = (S - min S) / (max S - min S) over the patches of a picture, for each word by itself, where S are the cosines of patches and
word. It says where in a picture a word fits best, not whether it fits at all: an absent word's map also reaches 1. Plain CLIP's
map is often *inverted*, low on the object and high around it (ICLIP, section 1).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Sign = Literal["raw", "reversed", "auto"]


def itsm(similarity: Tensor) -> Tensor:
    """Maps (B, Q, h, w) in [0, 1] of cosines (B, Q, h, w); a constant map becomes 0."""
    least, most = (extreme(similarity, (2, 3), keepdim=True) for extreme in (torch.amin, torch.amax))
    return (similarity - least) / (most - least).clamp_min(1e-6)


def signed(maps: Tensor, sign: Sign) -> Tensor:
    """Maps (B, Q, h, w) as they are, ``reversed`` (1 - M), or whichever of them ``auto`` takes for upright.

    ``auto`` knows no ground truth: things lie inside a picture more often than at its border, so a word's map is turned over
    where the border is its brighter part (INFERRED; the papers compare with a self-supervised foreground).
    """
    if sign == "raw":
        return maps
    if sign == "reversed":
        return 1 - maps
    inside = torch.ones(maps.shape[2:], dtype=torch.bool, device=maps.device)
    inside[[0, -1]] = False
    inside[:, [0, -1]] = False
    if not inside.any():
        return maps
    upright = maps[..., inside].mean(-1) >= maps[..., ~inside].mean(-1)
    return torch.where(upright[..., None, None], maps, 1 - maps)
