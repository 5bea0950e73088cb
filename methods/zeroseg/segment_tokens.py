"""From segment tokens to class probabilities of pixels (GroupViT's evaluation; ZeroSeg's, INFERRED)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class SegmentTokens:
    """What a method found in pictures.

    Attributes:
        assignment: (B, m, h, w), how much a patch belongs to a segment token.
        tokens: (B, m, C) embeddings of the tokens in the space of the text.
        image: (B, C) of the whole picture, for the gate.
    """

    assignment: Tensor
    tokens: Tensor
    image: Tensor

    def map(self, size: tuple[int, int]) -> Tensor:
        """(B, H, W) the token of every pixel: the assignment is upsampled first, then decided."""
        return F.interpolate(self.assignment.float(), size, mode="bilinear", align_corners=False).argmax(1)


def token_affinity(groups: SegmentTokens, text_QC: Tensor, temperature: float, gate_classes: int) -> Tensor:
    """Probabilities (B, m, Q) of the words for each token, times the gate's where there is one.

    Args:
        groups: of B pictures.
        text_QC: unit embeddings of the words.
        temperature: what cosines are multiplied with before the softmax.
        gate_classes: words of the whole picture that the gate lets pass; 0 for no gate.
    """
    scores_BmQ = temperature * F.normalize(groups.tokens.float(), dim=-1) @ text_QC.T
    if not gate_classes:
        return scores_BmQ.softmax(-1)
    picture_BQ = F.normalize(groups.image.float(), dim=-1) @ text_QC.T
    return scores_BmQ.softmax(-1) * gated(scores_BmQ, picture_BQ, gate_classes)


def of_pixels(affinity_BmQ: Tensor, token_BHW: Tensor) -> Tensor:
    """(B, Q, H, W): every pixel takes what its token has."""
    chosen = token_BHW.flatten(1)[:, None].expand(-1, affinity_BmQ.shape[2], -1)
    return affinity_BmQ.mT.gather(2, chosen).unflatten(2, token_BHW.shape[1:])


def gated(scores_BmQ: Tensor, picture_BQ: Tensor, classes: int) -> Tensor:
    """(B, m, Q) the tokens' probabilities among the picture's best words alone."""
    kept = torch.zeros_like(picture_BQ, dtype=torch.bool)
    kept.scatter_(1, picture_BQ.topk(min(classes, picture_BQ.shape[1])).indices, True)
    return scores_BmQ.masked_fill(~kept[:, None], -torch.inf).softmax(-1)
