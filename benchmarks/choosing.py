"""How well label maps choose a method without labels: rank correlation with the true order, and what the choice costs.

``python -m benchmarks.choosing``: sets of 30 test pictures of the embedded benchmark in three label spaces, and the rows of
``configs/compare/shapes.yaml`` that need no training. ``python -m benchmarks.choosing FOLDER``: pictures of the VOCdevkit in
FOLDER and the rows of ``configs/compare/photographs.yaml``. *Regret* is the mIoU of the best row less that of the row that a
criterion puts first; ``chance`` takes a row blindly.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from statistics import mean
from typing import Any

import common.compat  # noqa: F401  (must come before what imports torchvision)

import torch
from scipy.stats import spearmanr
from torch import Tensor

from commands.compare import CommandLineBuilder, parse_plan
from common.files import ROOT
from datamodules import DATAMODULES
from evaluation.choosing import CRITERIA, Seen, criteria, look, ranking
from evaluation.metrics import ConfusionMatrix
from reporting.plan import read_plan

SETS, PICTURES = 5, 30
TOGETHER = "agreement and certainty"
Judged = dict[str, tuple[float, float]]  # by criterion: rank correlation, regret


def sets(pictures: int) -> list[list[int]]:
    """``SETS`` sets of ``PICTURES``: apart where there are enough pictures, otherwise drawn by seeds, so that they overlap."""
    if pictures >= SETS * PICTURES:
        return [list(range(start, start + PICTURES)) for start in range(0, SETS * PICTURES, PICTURES)]
    draws = [torch.Generator().manual_seed(seed) for seed in range(SETS)]
    return [sorted(torch.randperm(pictures, generator=draw)[:PICTURES].tolist()) for draw in draws]


def part(seen: Seen, chosen: list[int]) -> Seen:
    """What was said of some of the pictures."""
    return Seen(*([of_all[i] for i in chosen] for of_all in (seen.maps, seen.mirrored, seen.certainties)))


def with_truth(seen: dict[str, Seen], masks: list[Tensor], num_classes: int) -> dict[str, dict[str, float]]:
    """By method, its criteria, and under ``miou`` the truth, from masks that the criteria do not see."""
    found = criteria(seen, num_classes)
    for name, of_method in seen.items():
        metric = ConfusionMatrix(num_classes)
        for labels, mask in zip(of_method.maps, masks, strict=True):
            metric.update(labels, mask)  # pictures of at most evaluation.choosing.SIDE pixels
        found[name]["miou"] = metric.result()["miou"].item()
    return found


def judged(found: dict[str, dict[str, float]]) -> Judged:
    true = {name: numbers["miou"] for name, numbers in found.items()}
    orders = {criterion: sorted(found, key=lambda name: -found[name][criterion]) for criterion in CRITERIA}
    orders[TOGETHER] = ranking(found)
    result = {"chance": (0.0, max(true.values()) - mean(true.values()))}
    for criterion, order in orders.items():
        places = [-place for place in range(len(order))]
        result[criterion] = spearmanr(places, [true[name] for name in order])[0], max(true.values()) - true[order[0]]
    return result


@torch.inference_mode()
def sets_of(vocabularies: tuple[str, ...], plan: str, protocol: str, data: str, **options: Any) -> Iterator[Judged]:
    """Every set in every label space, printed as it is done."""
    rows = read_plan(ROOT / "configs/compare" / plan, parse_plan).untrained
    builder = CommandLineBuilder()
    builder.begin()
    models = {row.name: builder.method(row, 0)[0] for row in rows}
    for vocabulary in vocabularies:
        module: Any = DATAMODULES[data](vocabulary=vocabulary, **options)
        pictures = module.benchmark("test")
        items = [pictures[i] for i in range(len(pictures))]
        seen = {}
        for name, model in models.items():
            model.use_protocol(protocol)
            model.use_vocabulary(module.vocabulary)
            seen[name] = look(model.label_maps, [item["image"] for item in items])
        for chosen in sets(len(items)):
            masks = [items[i]["mask"] for i in chosen]
            found = with_truth(
                {name: part(every, chosen) for name, every in seen.items()}, masks, module.vocabulary.num_classes
            )
            print(f"\n{vocabulary}, pictures {chosen}: mIoU, {', '.join(CRITERIA)}")
            for name, numbers in found.items():
                print(f"  {name:24}", *(f"{100 * numbers[key]:5.1f}" for key in ("miou", *CRITERIA)), flush=True)
            yield judged(found)


def study(folder: str | None) -> None:
    """Prints every set, then each criterion over all of them."""
    if folder:
        every = list(sets_of(("voc21",), "photographs.yaml", "photographs", "VOC", root=folder))
    else:
        names = ("shapes13", "shapes12", "shapes16")
        every = list(sets_of(names, "shapes.yaml", "shapes", "Shapes", pictures=SETS * PICTURES))
    print()
    for criterion in ("chance", *CRITERIA, TOGETHER):
        ranks, regrets = zip(*(one[criterion] for one in every), strict=True)
        print(
            f"{criterion}: rank correlation {mean(ranks):.2f} (least {min(ranks):.2f}), regret {100 * mean(regrets):.1f} mIoU "
            f"(most {100 * max(regrets):.1f}), {len(every)} sets"
        )


if __name__ == "__main__":
    study(sys.argv[1] if len(sys.argv) > 1 else None)
