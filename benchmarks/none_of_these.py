"""Whether a threshold that is chosen for a risk keeps it: chosen on half of the pictures, counted on the other half.

``python -m benchmarks.none_of_these OPTIONS``, with the options of ``zerolabel test``.
The pictures are scored once; the halves are drawn ``HALVES`` times, since the promise is about the mean over drawing pictures.
"""

from __future__ import annotations

import sys
from typing import Any

import common.compat  # noqa: F401  (must come before what imports torchvision)

import torch
from torch import Tensor

from commands.lightning import build
from commands.quiet import quiet
from common.randomness import drawing_from
from evaluation.risk_control import Risks
from evaluation.selective import BINS, STATED, aurc, coverage_at, losses_of, outcomes, told_apart

HALVES = 200


def counted(model: Any, pictures: Any) -> Tensor:
    """(N, 3, B) int64 outcomes of each picture that has a counted pixel; see :mod:`evaluation.selective`."""
    found, none = [], model.vocabulary.none
    for item in (pictures[i] for i in range(len(pictures))):
        (map_,) = model.label_maps([item["image"]], with_score=True)
        assert map_.score is not None
        found.append(outcomes(map_.labels, map_.score, item["mask"], none=none))
    every = torch.stack(found) if found else torch.zeros(0, 3, BINS, dtype=torch.int64)
    return every[every.sum((1, 2)) > 0]


def risks_of(pictures: Tensor) -> Risks:
    """Of the outcomes (n, 3, B) of some pictures."""
    return Risks.of({}, "", pictures.sum(0), losses_of(pictures).sum(0), len(pictures))


def realised(pictures: Tensor, risk: float) -> tuple[Tensor, Tensor]:
    """Mean loss and coverage (HALVES,) of the half of the pictures that the threshold was not chosen on."""
    found = []
    for seed in range(HALVES):
        with drawing_from(seed):
            order = torch.randperm(len(pictures))
        half, others = (risks_of(pictures[part]) for part in order.chunk(2))
        place = others.place(half.threshold(risk))
        found.append((others.loss[place], others.coverage[place]))
    losses, coverages = torch.tensor(found, dtype=torch.float64).T
    return losses, coverages


def study(options: list[str]) -> None:
    """Prints one row of docs/none_of_these.md."""
    quiet()
    cli = build([*options, "--trainer.logger=false"])
    cli.model.use_vocabulary(cli.datamodule.vocabulary)
    pictures = counted(cli.model.eval(), cli.datamodule.benchmark("test"))
    whole = pictures.sum(0)
    print(f"{cli.datamodule.describe()}, {cli.model.vocabulary.name}: {len(pictures)} pictures, AURC {100 * aurc(whole):.1f}")
    print(
        f"  risk of all pixels {100 * whole[1:].sum() / whole.sum():.1f}; left out {100 * whole[2].sum() / whole.sum():.1f} %"
    )
    print("  AUROC {:.3f}, FPR95 {:.3f} of classes left out".format(*told_apart(whole)))
    for risk in STATED:
        loss, coverage = realised(pictures, risk)
        print(
            f"  risk {risk}: coverage {100 * coverage_at(whole, risk):.1f}; chosen on halves: loss {100 * loss.mean():.1f} "
            f"(5 to 95 % of the halves {100 * loss.quantile(0.05):.1f} to {100 * loss.quantile(0.95):.1f}), coverage "
            f"{100 * coverage.mean():.1f}",
            flush=True,
        )


if __name__ == "__main__":
    study(sys.argv[1:])
