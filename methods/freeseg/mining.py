"""Masks mined from similarity maps: which classes are in a picture (partial label), which pixels are sure (partial pixel).

FreeSeg's abstract names the two strategies and says no more; the rules are INFERRED, after the group's published weakly
supervised code. Nothing here opens a mask. Shapes: B pictures, Q words, (h, w) patches, (H, W) pixels, P positives at most.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from common.errors import UserError, known
from evaluation.refine import Pamr
from methods.freeseg.similarity import Sign, itsm, signed

IGNORED = 255
PAMR_DILATIONS = (1, 2)  # pixels


@dataclass(frozen=True)
class MiningRules:
    """When a class counts as present and a pixel as sure.

    Attributes:
        positive: image-level probability from which a class is present (at least the best one is).
        negative: probability up to which it is absent; between the two nothing is said of it.
        max_classes: most classes present.
        foreground: value of a class's map from which a pixel is of the class.
        background: value of the best map up to which a pixel is background; None where the classes cover everything.
        margin: lead over the second best present class that a pixel needs.
        quantiles: the ``foreground`` share of highest and ``background`` share of lowest values, instead of fixed values.
        partial_label: off, all classes are present.
        partial_pixel: off, every pixel takes its best present class.
        min_labelled_share: share of sure pixels below which a picture is left out.
        itsm: each class's map spans 0 to 1; off, the cosines are compared as they are (plain self-training).
        sign: of the map, see :mod:`methods.freeseg.similarity`.
        smooth: raise every map to 1 - 0.3 CoV (PMM), which spreads uneven ones.
        pamr: iterations of dense refinement along the picture's edges; 0 for none.
    """

    positive: float = 0.1
    negative: float = 0.02
    max_classes: int = 5
    foreground: float = 0.6
    background: float | None = None
    margin: float = 0.1
    quantiles: bool = False
    partial_label: bool = True
    partial_pixel: bool = True
    min_labelled_share: float = 0.02
    itsm: bool = True
    sign: Sign = "raw"
    smooth: bool = False
    pamr: int = 0

    def __post_init__(self) -> None:
        known("sign of the similarity map", self.sign, get_args(Sign))
        if not 0 <= self.negative <= self.positive <= 1:
            raise UserError(f"mining: 0 <= negative {self.negative} <= positive {self.positive} <= 1 must hold.")


@dataclass(frozen=True)
class PartialMask:
    """``labels`` (H, W) uint8: word, Q for background, 255 for unsure; ``active`` (Q,) bool: words known present or absent."""

    labels: Tensor
    active: Tensor


def partial_label(probability_BQ: Tensor, rules: MiningRules) -> tuple[Tensor, Tensor]:
    """(B, Q) bool of the words that are present, and of those that are surely absent."""
    if not rules.partial_label:
        return torch.ones_like(probability_BQ, dtype=torch.bool), torch.zeros_like(probability_BQ, dtype=torch.bool)
    best = probability_BQ.topk(min(rules.max_classes, probability_BQ.shape[1])).indices
    among = torch.zeros_like(probability_BQ, dtype=torch.bool).scatter_(1, best, True)
    present = among & (probability_BQ >= rules.positive)
    present.scatter_(1, best[:, :1], True)
    return present, (probability_BQ <= rules.negative) & ~present


def mine(similarity_BQhw: Tensor, probability_BQ: Tensor, images: Tensor, rules: MiningRules) -> list[PartialMask]:
    """Labels of pictures (B, 3, H, W) in [0, 1] from cosines and image-level probabilities of all words."""
    maps = signed(itsm(similarity_BQhw), rules.sign) if rules.itsm else similarity_BQhw
    if rules.smooth:
        maps = smoothed(maps)
    present, absent = partial_label(probability_BQ, rules)
    mined = []
    for i, image in enumerate(images):
        words = present[i].nonzero()[:, 0]
        few = F.interpolate(maps[i, words][None], image.shape[1:], mode="bilinear", align_corners=False)[0]
        if rules.pamr:
            few = Pamr(image, PAMR_DILATIONS, rules.pamr)(few)
        chosen = partial_pixel(few, rules)
        background = torch.tensor([maps.shape[1], IGNORED], device=words.device)
        labels = torch.cat([words, background])[chosen]
        mined.append(PartialMask(labels.to(torch.uint8), present[i] | absent[i]))
    return mined


def partial_pixel(maps_PHW: Tensor, rules: MiningRules) -> Tensor:
    """(H, W) position of the pixel's word among the P present ones, P for background, -1 for unsure."""
    best, chosen = maps_PHW.max(0)
    if not rules.partial_pixel:
        return chosen
    foreground, background = rules.foreground, rules.background
    if rules.quantiles:
        foreground = float(best.quantile(1 - rules.foreground))
        background = None if background is None else float(best.quantile(background))
    sure = best >= foreground
    if len(maps_PHW) > 1:
        sizes = 1 + (maps_PHW * (maps_PHW >= foreground)).sum((1, 2))
        overlap = (maps_PHW >= foreground).sum(0) > 1
        weighed, of_small = (maps_PHW / sizes[:, None, None]).masked_fill(maps_PHW < foreground, -1).max(0)
        chosen = torch.where(overlap & (weighed > 0) & (background is not None), of_small, chosen)  # PMM: favours small things
        second = maps_PHW.topk(2, 0).values[1]
        sure &= best - second >= rules.margin
    chosen = chosen.masked_fill(~sure, -1)
    return chosen if background is None else chosen.masked_fill(best <= background, len(maps_PHW))


def smoothed(maps_BQhw: Tensor) -> Tensor:
    """PMM's coefficient-of-variation smoothing: M^(1 - 0.3 std / mean), both over M > 0.05."""
    part = maps_BQhw > 0.05
    count = part.sum((2, 3), keepdim=True).clamp_min(1)
    mean = (maps_BQhw * part).sum((2, 3), keepdim=True) / count
    variance = ((maps_BQhw - mean).square() * part).sum((2, 3), keepdim=True) / count
    return maps_BQhw ** (1 - 0.3 * variance.sqrt() / mean.clamp_min(1e-6)).clamp_min(0.05)
