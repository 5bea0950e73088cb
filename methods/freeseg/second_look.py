"""A second look: the tower sees each region of a class alone, and says whether it is of that class.

Of two words that a tower hardly tells apart, both maps are high on the same things, and which is higher changes from patch to
patch. More can be said of the region as a whole, and most by the embedding of a whole picture, which is what contrastive
training compared with texts. So each connected region where a class's map reaches the foreground is cut out, on grey ground,
and shown to the tower. What speaks for a class is

    V = scaled(cosine of the region alone) + scaled(mean cosine of its patches)

each scaled as maps are (:mod:`methods.freeseg.reach`), over the regions of a collection. A class keeps a region of its map if
its V leads that of every other class in question by ``ENOUGH``, or by more than it does in half of the regions where it leads:
a class that is hard to tell keeps the half that is surest, as in class-balanced self-training (CBST, ECCV 2018). In the other
regions its map counts for nothing. Two-stage open-vocabulary methods name their masks by such crops; none of this is in
FreeSeg's abstract.
Shapes: P classes in question among K asked ones, Q words, R regions, (H, W) pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor

from backbones.tower import DenseTower
from common.synonyms import best_of_class
from methods.freeseg.reach import Reach

SMALLEST = 0.01  # of the picture's pixels; a smaller region is not looked at, and not kept
AROUND = 1.25  # side of the square that is cut out, relative to the region's longer one
GREY = 0.5
ENOUGH = 0.3
ROUNDING = 1e-4  # the region that leads by the median itself is kept, in whatever batch its picture is seen
Region = tuple[int, Tensor]  # position of the map, and what is inside (H, W) bool


@dataclass(frozen=True)
class Evidence:
    """What the tower says of the regions of one picture.

    ``cosines`` (2, K, R), of the regions alone and the mean of their patches; ``found`` (P,), positions of the classes in
    question; ``of`` (R,), position of the class whose map made the region.
    """

    cosines: Tensor
    found: Tensor
    of: Tensor

    def to(self, device: str) -> Evidence:
        """The same on a device."""
        return Evidence(self.cosines.to(device), self.found.to(device), self.of.to(device))


@dataclass(frozen=True)
class Verdicts:
    """How sure a class must be of a region, over a collection.

    ``low`` and ``high`` (2 K,) of the cosines, see :class:`methods.freeseg.reach.Reach`; ``enough`` (K,), the lead that each
    class needs.
    """

    low: Tensor
    high: Tensor
    enough: Tensor

    @classmethod
    def over(cls, seen: list[Evidence]) -> Verdicts:
        """Of all pictures of the collection."""
        of = torch.cat([some.of for some in seen])
        values = [some.cosines.flatten(0, 1)[None, :, :, None] for some in seen]
        if not len(of):  # nothing to compare: any region will do
            none = torch.zeros(values[0].shape[1])
            return cls(none, none + 1, none[::2])
        reach = Reach.over(values)
        found = cls(reach.low, reach.high, torch.full((len(reach.low) // 2,), ENOUGH))
        leads = torch.cat([found.leads(some) for some in seen])
        for k in range(len(found.enough)):
            leading = leads[(of == k) & (leads >= 0)]
            if len(leading):
                found.enough[k] = (leading.median() - ROUNDING).clamp_max(ENOUGH)
        return found

    def leads(self, seen: Evidence) -> Tensor:
        """(R,) by how much each region's class leads the other classes in question; below 0 where another does."""
        scaled = Reach(self.low, self.high).scaled(seen.cosines.flatten(0, 1)[None, :, :, None])[0, :, :, 0]
        verdict_PR = scaled.unflatten(0, (2, -1)).sum(0)[seen.found]
        own = seen.found[:, None] == seen.of
        return verdict_PR.masked_fill(~own, 0).sum(0) - verdict_PR.masked_fill(own, -torch.inf).amax(0)

    def kept(self, seen: Evidence) -> Tensor:
        """(R,) bool."""
        return self.leads(seen) >= self.enough.to(seen.cosines)[seen.of]


@dataclass(frozen=True)
class SecondLook:
    """A tower that looks at the regions of a picture's maps, each alone.

    Attributes:
        tower: the model.
        text: (Q, C) unit embeddings of the words.
        class_of_word: (Q,) class of each.
        foreground: value of a map from which a region is of its class.
        batch: regions that the tower sees at once.
    """

    tower: DenseTower
    text: Tensor
    class_of_word: Tensor
    foreground: float
    batch: int

    def confirmed(self, verdicts: Verdicts, image: Tensor, patches_Khw: Tensor, maps_PHW: Tensor, found: Tensor) -> Tensor:
        """The maps, 0 outside of the regions that their classes keep; arguments as of :meth:`evidence`."""
        regions = regions_of(maps_PHW, self.foreground)
        keeps = verdicts.kept(self.evidence(image, patches_Khw, found, regions))
        kept = torch.zeros_like(maps_PHW, dtype=torch.bool)
        for (position, inside), keep in zip(regions, keeps, strict=True):
            kept[position] |= inside & keep
        return maps_PHW * kept

    @torch.no_grad()
    def evidence(self, image: Tensor, patches_Khw: Tensor, found: Tensor, regions: list[Region]) -> Evidence:
        """What the tower says of the regions of an image.

        Args:
            image: (3, H, W) in [0, 1].
            patches_Khw: cosines of its patches, of all asked classes.
            found: (P,) positions of the classes in question.
            regions: of their maps, see :func:`regions_of`.
        """
        patches_KHW = F.interpolate(patches_Khw[None], image.shape[1:], mode="bilinear", align_corners=False)[0]
        cosines = [torch.zeros(2, 0, len(patches_Khw), device=image.device)]
        for start in range(0, len(regions), self.batch):
            some = [inside for _, inside in regions[start : start + self.batch]]
            cuts = torch.stack([alone(image, inside, self.tower.native_side) for inside in some])
            words = self.tower.embed_image(torch.cat([cuts, cuts.flip(3)])) @ self.text.T
            of_cuts = best_of_class(words, self.class_of_word).unflatten(0, (2, -1)).mean(0)
            cosines.append(torch.stack([of_cuts, torch.stack([patches_KHW[:, inside].mean(1) for inside in some])]))
        of = found[torch.tensor([position for position, _ in regions], dtype=torch.long, device=found.device)]
        return Evidence(torch.cat(cosines, 1).transpose(1, 2), found, of)


def regions_of(maps_PHW: Tensor, foreground: float) -> list[Region]:
    """Connected regions where a map reaches the foreground."""
    regions = []
    for position, inside in enumerate((maps_PHW >= foreground).cpu().numpy()):
        numbers, count = ndimage.label(inside)
        sizes = ndimage.sum_labels(inside, numbers, range(1, count + 1)) if count else []
        for number, size in enumerate(sizes, 1):
            if size >= SMALLEST * inside.size:
                regions.append((position, torch.from_numpy(numbers == number).to(maps_PHW.device)))
    return regions


def alone(image: Tensor, inside: Tensor, side: int) -> Tensor:
    """(3, side, side) of an image (3, H, W): what is inside the region (H, W), in the middle of a grey square."""
    rows, columns = inside.any(1).nonzero()[:, 0], inside.any(0).nonzero()[:, 0]
    top, bottom, left, right = int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
    cut = torch.where(inside, image, GREY)[:, top:bottom, left:right]
    length = round(AROUND * max(bottom - top, right - left))
    above, before = (length - (bottom - top)) // 2, (length - (right - left)) // 2
    square = F.pad(cut, (before, length - (right - left) - before, above, length - (bottom - top) - above), value=GREY)
    return F.interpolate(square[None], (side, side), mode="bicubic", antialias=True, align_corners=False)[0].clamp(0, 1)
