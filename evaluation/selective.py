"""Selective prediction: what is left right if a method may answer "none of the words" where it is not sure.

The confidence of a pixel is the probability of its class (:class:`evaluation.label_map.LabelMap`); pixels below a threshold are
rejected. *Risk* at coverage c is the share of wrong pixels among the fraction c of the counted pixels that is most confident,
and AURC its mean over all coverages (Geifman & El-Yaniv, NeurIPS 2017). Pixels of classes that the words leave out
(:meth:`evaluation.vocabulary.Vocabulary.without`) are wrong wherever they are kept.

Confidences are counted in ``BINS`` bins, even in log p / (1 - p), since most lie near 0 or 1; within one they are ties.

Shapes: B bins.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric

from evaluation.label_map import LabelMap

EDGES = torch.sigmoid(torch.linspace(-18, 15, 1025, dtype=torch.float64)).float().unique()  # to where float32 ends near 1
THRESHOLDS = torch.cat([torch.zeros(1), EDGES])  # (B,): bin b holds the confidences from THRESHOLDS[b] up to the next one
BINS = len(THRESHOLDS)
UNIT = 2**32  # of a picture's loss, as a whole number, so that sums are exact in any order
RIGHT, WRONG, LEFT_OUT = range(3)  # rows of a histogram
STATED = (0.1, 0.2)  # risks at which coverages are told


class RiskCoverage(Metric):
    """Counts pixels by confidence and outcome, exactly, on any number of processes.

    Args:
        ignore_index: target value that is not counted.
        none: target value of what the words leave out; None where they leave nothing out.

    ``compute()`` gives ``aurc`` (float64; nan without a pixel), ``histogram`` (3, B) int64 of right and wrong pixels and those
    of classes left out, ``losses`` (B,) int64, the sum of those of :mod:`evaluation.risk_control` over ``judged`` pictures,
    in units of 1 / ``UNIT``.
    """

    full_state_update = False
    histogram: Tensor
    losses: Tensor
    judged: Tensor

    def __init__(self, ignore_index: int = 255, none: int | None = None) -> None:
        super().__init__(dist_sync_on_step=False)
        self.ignore_index, self.none = ignore_index, none
        self.add_state("histogram", torch.zeros(3, BINS, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("losses", torch.zeros(BINS, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("judged", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, prediction: Tensor, score: Tensor, target: Tensor) -> None:
        """Adds one picture: train ids (H, W), their probabilities (H, W) in [0, 1], and the truth (H, W)."""
        counts = outcomes(prediction, score, target, self.ignore_index, self.none)
        self.histogram += counts
        self.losses += losses_of(counts)
        self.judged += counts.any()

    def compute(self) -> dict[str, Tensor]:
        """See the class."""
        return {"aurc": aurc(self.histogram), "histogram": self.histogram, "losses": self.losses, "judged": self.judged}


def outcomes(prediction: Tensor, score: Tensor, target: Tensor, ignore_index: int = 255, none: int | None = None) -> Tensor:
    """(3, B) int64 pixels of one picture by outcome and bin; a probability that is nan is no confidence at all."""
    bins = torch.bucketize(score.float().nan_to_num(0.0), EDGES.to(score.device), right=True, out_int32=True)
    outcome = (prediction != target).to(torch.int32)
    if none is not None:
        outcome.masked_fill_(target == none, LEFT_OUT)
    code = outcome.mul_(BINS).add_(bins).masked_fill_(target == ignore_index, 3 * BINS)
    return torch.bincount(code.flatten(), minlength=3 * BINS + 1)[:-1].view(3, BINS)


def losses_of(counts: Tensor) -> Tensor:
    """(..., B) int64, in units of 1 / ``UNIT`` and rounded up: wrong pixels kept at each threshold, of all of a picture's.

    Args:
        counts: (..., 3, B) :func:`outcomes` of a picture; the loss of one without a pixel is 0.
    """
    kept_wrong = counts[..., WRONG:, :].sum(-2).flip(-1).cumsum(-1).flip(-1)
    total = counts.sum((-2, -1)).clamp_min(1)[..., None]
    return -(-kept_wrong * UNIT // total)


def kept(histogram: Tensor) -> tuple[Tensor, Tensor]:
    """Pixels (B,) kept at each threshold and, of these, the wrong ones, float64; first where only the most confident bin is."""
    descending = histogram.double().flip(1)
    return descending.sum(0).cumsum(0), descending[WRONG:].sum(0).cumsum(0)


def risk_at(histogram: Tensor, coverage: Tensor) -> Tensor:
    """Risk (C,) at coverages (C,) in (0, 1], float64; ties are rejected in random order, in the mean. nan without a pixel."""
    size, wrong = (torch.cat([part.new_zeros(1), part]) for part in kept(histogram))
    asked = coverage.double().to(size.device) * size[-1]
    after = torch.searchsorted(size, asked.contiguous()).clamp(1, BINS)
    share = (asked - size[after - 1]) / (size[after] - size[after - 1])
    return (wrong[after - 1] + share * (wrong[after] - wrong[after - 1])) / asked


def coverage_at(histogram: Tensor, risk: float) -> float:
    """The largest coverage that a threshold reaches with at most that risk; nan without a pixel."""
    size, wrong = kept(histogram)
    allowed = size[wrong <= risk * size]
    return (allowed.amax() if len(allowed) else size.new_zeros(())).div(size[-1]).item()


def aurc(histogram: Tensor) -> Tensor:
    """Mean over n = 1..N of the risk of the n most confident of N pixels, float64.

    In a bin of m pixels, w of them wrong, behind n0 pixels of which w0 are, n of the m are wrong in n w / m of all orders. The
    sum of (w0 + n w / m) / (n0 + n) over the bin is w + (w0 - n0 w / m) (H(n0 + m) - H(n0)), with the harmonic numbers H.
    """
    size, wrong = kept(histogram)
    before, wrong_before = (part - part.diff(prepend=part.new_zeros(1)) for part in (size, wrong))
    own, own_wrong = size - before, wrong - wrong_before
    rate = own_wrong / own.clamp_min(1)
    harmonic = torch.digamma(size + 1) - torch.digamma(before + 1)
    return (own_wrong + (wrong_before - before * rate) * harmonic).sum() / size[-1]


def told_apart(histogram: Tensor) -> tuple[float, float]:
    """How well confidence tells the words' pixels from those of classes left out: AUROC, and FPR95.

    The second is the share of left-out pixels that is kept where 95 % of the others are. (nan, nan) where there are not both.
    """
    known = histogram[:LEFT_OUT].sum(0).double().flip(0)
    other = histogram[LEFT_OUT].double().flip(0)
    if not known.sum() or not other.sum():
        return float("nan"), float("nan")
    below = other.sum() - other.cumsum(0)
    auroc = (known * (below + other / 2)).sum() / (known.sum() * other.sum())
    first = int(torch.searchsorted(known.cumsum(0), 0.95 * known.sum()))
    return auroc.item(), (other.cumsum(0)[first] / other.sum()).item()


def none_below(found: LabelMap, threshold: float, ignore_index: int = 255) -> LabelMap:
    """The label map with ``ignore_index`` where the probability is below the threshold; made with scores."""
    assert found.score is not None
    unsure = ~(found.score.float() >= threshold)  # so that nan is unsure
    return LabelMap(found.labels.masked_fill(unsure, ignore_index), found.score, found.segments)
