"""From segment tokens to class probabilities of pixels (GroupViT's evaluation; ZeroSeg's, INFERRED)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from evaluation.rules import Decision


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


def token_probabilities(groups: SegmentTokens, text_QC: Tensor, decision: Decision, size: tuple[int, int]) -> Tensor:
    """Probabilities (B, Q, H, W): those of the words for a pixel's token, times the gate's where the protocol has one."""
    affinity_BmQ = (decision.temperature * F.normalize(groups.tokens.float(), dim=-1) @ text_QC.T).softmax(-1)
    if decision.gate_classes:
        affinity_BmQ = affinity_BmQ * gate(groups, text_QC, decision)
    token_BHW = groups.map(size)
    return affinity_BmQ.mT.gather(2, token_BHW.flatten(1)[:, None].expand(-1, len(text_QC), -1)).unflatten(2, size)


def gate(groups: SegmentTokens, text_QC: Tensor, decision: Decision) -> Tensor:
    """(B, m, Q) the tokens' probabilities among the picture's ``gate_classes`` best words alone."""
    picture_BQ = F.normalize(groups.image.float(), dim=-1) @ text_QC.T
    kept = torch.zeros_like(picture_BQ, dtype=torch.bool)
    kept.scatter_(1, picture_BQ.topk(min(decision.gate_classes, picture_BQ.shape[1])).indices, True)
    scores = decision.temperature * F.normalize(groups.tokens.float(), dim=-1) @ text_QC.T
    return scores.masked_fill(~kept[:, None], -torch.inf).softmax(-1)
