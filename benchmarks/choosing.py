"""How well label maps choose a method without labels: rank correlation with the true order, and what the choice costs.

``python -m benchmarks.choosing``: sets of test pictures of the embedded benchmark in three label spaces, and the rows of
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

from commands.compare import CommandLineBuilder, parse_plan
from common.files import ROOT
from datamodules import DATAMODULES
from evaluation.choosing import CRITERIA, criteria, look, ranking
from evaluation.metrics import ConfusionMatrix
from reporting.plan import read_plan

SETS, PICTURES = 5, 30
TOGETHER = "agreement and certainty"
Judged = dict[str, tuple[float, float]]  # by criterion: rank correlation, regret


@torch.inference_mode()
def with_truth(models: dict[str, Any], data: Any, items: list[Any]) -> dict[str, dict[str, float]]:
    """By method, its criteria, and under ``miou`` the truth, from masks that the criteria do not see."""
    seen = {name: look(model.label_maps, [item["image"] for item in items]) for name, model in models.items()}
    found = criteria(seen, data.vocabulary.num_classes)
    for name in models:
        metric = ConfusionMatrix(data.vocabulary.num_classes)
        for labels, item in zip(seen[name].maps, items, strict=True):
            metric.update(labels, item["mask"])  # pictures of at most evaluation.choosing.SIDE pixels
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


def sets_of(vocabularies: tuple[str, ...], plan: str, protocol: str, data: str, **options: Any) -> Iterator[Judged]:
    """Every whole set of ``PICTURES`` in every label space, printed as it is done."""
    rows = read_plan(ROOT / "configs/compare" / plan, parse_plan).untrained
    models = {row.name: CommandLineBuilder().method(row, 0)[0] for row in rows}
    for vocabulary in vocabularies:
        module: Any = DATAMODULES[data](vocabulary=vocabulary, **options)
        pictures = module.benchmark("test")
        for model in models.values():
            model.use_protocol(protocol)
            model.use_vocabulary(module.vocabulary)
        for start in range(0, len(pictures) - PICTURES + 1, PICTURES):
            found = with_truth(models, module, [pictures[i] for i in range(start, start + PICTURES)])
            print(f"\n{vocabulary}, pictures from {start}: mIoU, {', '.join(CRITERIA)}")
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
