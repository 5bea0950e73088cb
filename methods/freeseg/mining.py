"""Masks mined from similarity maps: which classes are in a picture (partial label), which pixels are sure (partial pixel).

FreeSeg's abstract names the two strategies and says no more; its body was not available, so the rules are INFERRED, after the
group's published weakly supervised code. Nothing here opens a mask. Shapes: B pictures, N crops, K asked classes, (h, w)
patches, (H, W) pixels, P positives at most.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from common.batch import IGNORED
from common.errors import UserError
from common.values import Amount, Count, Natural, Number, Share, check_values
from evaluation.refine import Pamr
from methods.freeseg.reach import Reach
from methods.freeseg.similarity import Sign, itsm, signed

PAMR_DILATIONS = (1, 2)  # pixels

Seen = Literal["picture", "crops", "map", "regions"]
Span = Literal["picture", "collection", "none"]
Confirmed = Callable[[int, Tensor, Tensor], Tensor]
"""(number of a picture, maps (P, H, W) of the classes in question, their positions (P,)) -> maps, 0 where a class is not."""


@dataclass(frozen=True)
class MiningRules:
    """When a class counts as present and a pixel as sure.

    The numbers are those of the embedded world; on photographs none were tried.

    Attributes:
        positive: how much a picture shows of a class, from which it is present (at least the best one is); see ``seen_in``.
        negative: how much, likewise, up to which it is absent; between the two nothing is said of it.
        seen_in: what says how much. The image-level probability of the whole ``picture``, or the highest among all ``crops``
            that the views cut, in multiples of chance, 1 / K, since a softmax over 171 classes leaves the third class of a
            picture far less than one over 16; or the ``map``: the share of the patches where no other class's is higher;
            or ``regions``: the share where the class's map reaches ``foreground``, which puts the class in question, and
            then what the tower says of each such region alone (:mod:`methods.freeseg.second_look`).
        max_classes: most classes present.
        foreground: value of a class's map from which a pixel is of the class.
        background: value of the best map up to which a pixel is background; None where the classes cover everything.
        margin: lead over the second best present class that a pixel needs.
        small_things: where maps of several classes pass ``foreground``, each is divided by how much of the picture its class
            takes, relative to the smallest, before they are compared (PMM, which favours small things).
        quantiles: the ``foreground`` share of highest and ``background`` share of lowest values, instead of fixed values.
        partial_label: off, all classes are present.
        partial_pixel: off, every pixel takes its best present class.
        min_labelled_share: share of sure pixels below which a picture is left out.
        span: each class's map spans 0 to 1 over the ``picture`` (ITSM), or over a ``collection`` of pictures
            (:mod:`methods.freeseg.reach`); ``none`` compares the cosines as they are (plain self-training).
        sign: of the map, see :mod:`methods.freeseg.similarity`.
        smooth: raise every map to 1 - 0.3 CoV (PMM), which spreads uneven ones.
        pamr: iterations of dense refinement along the picture's edges; 0 for none.
    """

    positive: Amount = 0.16
    negative: Amount = 0.032
    seen_in: Seen = "picture"
    max_classes: Count = 7
    foreground: Number = 0.7
    background: Number | None = None
    margin: Number = 0.3
    small_things: bool = False
    quantiles: bool = False
    partial_label: bool = True
    partial_pixel: bool = True
    min_labelled_share: Share = 0.02
    span: Span = "picture"
    sign: Sign = "raw"
    smooth: bool = False
    pamr: Natural = 0

    def __post_init__(self) -> None:
        check_values(type(self), type(self), vars(self))
        if self.seen_in == "map" and self.span == "picture":
            raise UserError("mining: seen_in map compares maps, which all reach 1 under span picture. Set span collection.")
        if self.seen_in == "regions" and self.span != "collection":
            raise UserError(f"mining: seen_in regions compares over a collection, span is {self.span}. Set span collection.")
        if self.negative > self.positive:
            raise UserError(f"mining: 0 <= negative {self.negative} <= positive {self.positive} must hold.")


@dataclass(frozen=True)
class PartialMask:
    """What is known of a picture, in train ids.

    ``labels`` (H, W) uint8: the class, the background's where it is mined, 255 for unsure; ``active`` (256,) bool: classes
    known to be present or absent.
    """

    labels: Tensor
    active: Tensor


def scaled(similarity_BKhw: Tensor, rules: MiningRules, reach: Reach | None = None) -> Tensor:
    """Maps (B, K, h, w) whose values are compared, of cosines; ``reach`` is that of the rules' collection."""
    maps = similarity_BKhw
    if rules.span == "collection":
        assert reach is not None
        maps = reach.scaled(maps)
    elif rules.span == "picture":
        maps = itsm(maps)
    maps = signed(maps, rules.sign)
    return smoothed(maps) if rules.smooth else maps


def image_level(cosines_BNK: Tensor, maps_BKhw: Tensor, scale: Tensor | float, rules: MiningRules) -> Tensor:
    """(B, K) how much pictures show of each class, in the unit of ``rules.seen_in``.

    Args:
        cosines_BNK: of the whole picture, the first crop, and of the others.
        maps_BKhw: what is compared, see :func:`scaled`.
        scale: of the tower's softmax.
        rules: see there.
    """
    if rules.seen_in == "map":
        return F.one_hot(maps_BKhw.argmax(1), maps_BKhw.shape[1]).flatten(1, 2).float().mean(1)
    if rules.seen_in == "regions":
        return (maps_BKhw >= rules.foreground).float().mean((2, 3))
    crops = cosines_BNK[:, :1] if rules.seen_in == "picture" else cosines_BNK
    return (scale * crops).softmax(2).amax(1) * cosines_BNK.shape[2]


def partial_label(shown_BK: Tensor, rules: MiningRules) -> tuple[Tensor, Tensor]:
    """(B, K) bool of the classes that are present, and of those that are surely absent."""
    if not rules.partial_label:
        return torch.ones_like(shown_BK, dtype=torch.bool), torch.zeros_like(shown_BK, dtype=torch.bool)
    best = shown_BK.topk(min(rules.max_classes, shown_BK.shape[1])).indices
    among = torch.zeros_like(shown_BK, dtype=torch.bool).scatter_(1, best, True)
    present = among & (shown_BK >= rules.positive)
    present.scatter_(1, best[:, :1], True)
    return present, (shown_BK <= rules.negative) & ~present


def mine(
    maps_BKhw: Tensor,
    shown_BK: Tensor,
    images: Tensor,
    rules: MiningRules,
    classes: Tensor,
    background: int | None = None,
    confirmed: Confirmed | None = None,
) -> list[PartialMask]:
    """What is known of pictures (B, 3, H, W) in [0, 1].

    Args:
        maps_BKhw: of patches and classes, see :func:`scaled`.
        shown_BK: how much the pictures show of the classes, see :func:`image_level`.
        images: the pictures, along whose edges ``rules.pamr`` refines.
        rules: see there.
        classes: (K,) train ids.
        background: train id of what ``rules.background`` finds; None without such a class.
        confirmed: what ``seen_in: regions`` makes of the maps.
    """
    present, absent = partial_label(shown_BK, rules)
    ids = torch.tensor([IGNORED if background is None else background, IGNORED], device=classes.device)
    mined = []
    for i, (found, few) in enumerate(refined_maps(maps_BKhw, present, images, rules)):
        kept = few if confirmed is None else confirmed(i, few, found)
        labels = torch.cat([classes[found], ids])[partial_pixel(kept, rules, background is not None, few)]
        active = torch.zeros(IGNORED + 1, dtype=torch.bool, device=classes.device)
        active[classes[present[i] | absent[i]]] = True
        if background is not None and rules.background is not None:
            active[background] = True
        mined.append(PartialMask(labels.to(torch.uint8), active))
    return mined


def refined_maps(maps_BKhw: Tensor, present_BK: Tensor, images: Tensor, rules: MiningRules) -> Iterator[tuple[Tensor, Tensor]]:
    """Of each picture the positions (P,) of its present classes and their maps (P, H, W), refined along the picture's edges."""
    for maps_Khw, present, image in zip(maps_BKhw, present_BK, images, strict=True):
        found = present.nonzero()[:, 0]
        maps_PHW = F.interpolate(maps_Khw[found][None], image.shape[1:], mode="bilinear", align_corners=False)[0]
        yield found, Pamr(image, PAMR_DILATIONS, rules.pamr)(maps_PHW) if rules.pamr else maps_PHW


def partial_pixel(maps_PHW: Tensor, rules: MiningRules, has_background: bool = True, all_PHW: Tensor | None = None) -> Tensor:
    """(H, W) position of the pixel's class among the P present ones, P for background, -1 for unsure.

    ``all_PHW`` are the maps before a second look, where there was one: what it did not keep is no background for that.
    """
    highest, chosen = maps_PHW.max(0)
    if not rules.partial_pixel:
        return chosen
    foreground, background = rules.foreground, rules.background if has_background else None
    shown = highest if background is None or all_PHW is None else all_PHW.amax(0)
    if rules.quantiles:
        foreground = float(highest.float().quantile(1 - rules.foreground))
        background = None if background is None else float(shown.float().quantile(background))
    compared = by_size(maps_PHW, foreground) if rules.small_things else maps_PHW
    lead, chosen = compared.max(0)
    sure = highest >= foreground
    if len(maps_PHW) > 1:
        sure &= lead - compared.topk(2, 0).values[1] >= rules.margin
    chosen = chosen.masked_fill(~sure, -1)
    return chosen if background is None else chosen.masked_fill(shown <= background, len(maps_PHW))


def by_size(maps_PHW: Tensor, foreground: float) -> Tensor:
    """Maps that are, where several are foreground, divided by their size relative to the smallest; the others are 0 there."""
    inside = maps_PHW >= foreground
    size = 1 + (maps_PHW * inside).sum((1, 2), keepdim=True)
    weighed = (maps_PHW * size.min() / size).masked_fill(~inside, 0)
    return torch.where(inside.sum(0) > 1, weighed, maps_PHW)


def smoothed(maps_BKhw: Tensor) -> Tensor:
    """PMM's coefficient-of-variation smoothing: M^(1 - 0.3 std / mean), both over M > 0.05; what is below 0 becomes 0."""
    maps_BKhw = maps_BKhw.clamp_min(0)
    part = maps_BKhw > 0.05
    count = part.sum((2, 3), keepdim=True).clamp_min(1)
    mean = (maps_BKhw * part).sum((2, 3), keepdim=True) / count
    variance = ((maps_BKhw - mean).square() * part).sum((2, 3), keepdim=True) / count
    return maps_BKhw ** (1 - 0.3 * variance.sqrt() / mean.clamp_min(1e-6)).clamp_min(0.05)
