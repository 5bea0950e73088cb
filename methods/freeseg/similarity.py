"""ITSM, the image-text similarity map of ICLIP and FreeSeg: how much a patch looks like a word, between 0 and 1.

M = (S - min S) / (max S - min S) over the patches of a picture, for each word by itself, where S are the cosines of patches and
word. It says where in a picture a word fits best, not whether it fits at all: an absent word's map also reaches 1. Plain CLIP's
map is often *inverted*, low on the object and high around it (ICLIP, section 1).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from backbones.attention import RuleName, rule_named
from backbones.clip import CLIP
from backbones.feature_surgery import feature_surgery

Sign = Literal["raw", "reversed", "auto"]


@dataclass(frozen=True)
class SimilarityMaker:
    """Cosines of patches and words by a CLIP.

    Attributes:
        clip: the model.
        text: (Q, C) unit embeddings of the words.
        rule: attention rule of the dense tokens.
        scales: sizes of the picture that the map is averaged over, mirrored ones included.
        projection: (D, C) of the dense tokens, in the place of CLIP's own (ICLIP).
    """

    clip: CLIP
    text: Tensor
    rule: RuleName
    scales: tuple[float, ...]
    projection: Tensor | None

    @torch.no_grad()
    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Image-level cosines (B, Q) by CLIP itself, and the map's (B, Q, h, w), of images (B, 3, H, W) in [0, 1]."""
        total, pooled = None, None
        for scale in self.scales:
            size = [round(scale * side) for side in images.shape[2:]]
            sized = F.interpolate(images, size, mode="bicubic", antialias=True) if scale != 1 else images
            both, found = self._both_ways(sized)
            if total is None or pooled is None:
                total, pooled = found, both
            else:
                total = total + F.interpolate(found, total.shape[2:], mode="bilinear", align_corners=False)
        assert total is not None
        assert pooled is not None
        return pooled @ self.text.T, total / (2 * len(self.scales))

    def _both_ways(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Image embeddings (B, C), and the cosines of the images and of their mirrored copies, added up."""
        both, dense = self.clip.tokens(
            torch.cat([images, images.flip(3)]), self.rule, "bicubic", pooled=True, projection=self.projection
        )
        assert both is not None
        scores = torch.einsum("bchw,qc->bqhw", dense, self.text)
        if rule_named(self.rule).surgery:
            scores = feature_surgery(scores, both @ self.text.T)
        straight, mirrored = scores.chunk(2)
        return both.chunk(2)[0], straight + mirrored.flip(3)


def itsm(similarity: Tensor) -> Tensor:
    """Maps (B, Q, h, w) in [0, 1] of cosines (B, Q, h, w); a constant map becomes 0."""
    lowest, highest = (extreme(similarity, (2, 3), keepdim=True) for extreme in (torch.amin, torch.amax))
    return (similarity - lowest) / (highest - lowest).clamp_min(1e-6)


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
