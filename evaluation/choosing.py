"""Which method would one take who has no masks? Three things that label maps tell of themselves.

- *agreement*: mIoU of a method's maps with those of each other method, in the mean. What several ways of reading find alike is
  seldom all wrong; a method that does what no other does is more often wrong than ahead.
- *stability*: mIoU of its maps with those of the mirrored pictures, turned back. What changes with the side it is seen from is
  not in the picture.
- *certainty*: mean probability of the best class, over all pixels. It compares methods only under one protocol, whose
  temperature they share.

Methods are ranked by the sum of their ranks in agreement and in certainty: one says which are wrong, the other which of the
rest are better. How well this chooses is measured by ``python -m benchmarks.choosing``. Nothing here sees a mask.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from torch import Tensor

from evaluation.label_map import LabelMap
from evaluation.metrics import areas_of, confusion, iou_of

SIDE = 512  # maps are compared at no more pixels than this along their longer side
CRITERIA = ("agreement", "stability", "certainty")
RANKED_BY = ("agreement", "certainty")


@dataclass
class Seen:
    """What a method said of the pictures: label maps (H, W), the same of their mirror images, mean probabilities."""

    maps: list[Tensor] = field(default_factory=list)
    mirrored: list[Tensor] = field(default_factory=list)
    certainties: list[float] = field(default_factory=list)


def look(label_maps: Callable[..., list[LabelMap]], images: Iterable[Tensor]) -> Seen:
    """Asks a method (:meth:`methods.segmenter.Segmenter.label_maps`) about pictures (3, H, W) and their mirror images."""
    seen = Seen()
    for image in images:
        (plain,) = label_maps([image], with_score=True)
        (turned,) = label_maps([image.flip(-1)])
        assert plain.score is not None
        step = -(-max(plain.labels.shape) // SIDE)
        seen.maps.append(plain.labels[::step, ::step].cpu())
        seen.mirrored.append(turned.labels.flip(-1)[::step, ::step].cpu())
        seen.certainties.append(plain.score.mean().item())
    return seen


def criteria(seen: dict[str, Seen], num_classes: int) -> dict[str, dict[str, float]]:
    """By method, its value of each of ``CRITERIA``; fractions, more is better. Agreement is nan of a method that is alone."""

    def alike(a: list[Tensor], b: list[Tensor]) -> float:
        counts = sum(confusion(one, other, num_classes) for one, other in zip(a, b, strict=True))
        assert isinstance(counts, Tensor)
        return iou_of(areas_of(counts)).nanmean().item()

    def mean(values: list[float]) -> float:
        return sum(values) / len(values) if values else float("nan")

    return {
        name: {
            "agreement": mean([alike(own.maps, other.maps) for also, other in seen.items() if also != name]),
            "stability": alike(own.maps, own.mirrored),
            "certainty": mean(own.certainties),
        }
        for name, own in seen.items()
    }


def ranking(found: dict[str, dict[str, float]]) -> list[str]:
    """Methods, best first, by the sum of their ranks in ``RANKED_BY``; of equal ones first the more certain."""

    def rank(name: str, criterion: str) -> int:
        return sum(other[criterion] > found[name][criterion] for other in found.values())

    return sorted(found, key=lambda name: (sum(rank(name, each) for each in RANKED_BY), -found[name]["certainty"]))
