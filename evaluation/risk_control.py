"""A threshold for a stated risk, with a guarantee: conformal risk control (Angelopoulos et al. 2022, ICLR 2024).

The loss of a picture is the share of its counted pixels that get a wrong class: a pixel that is rejected is not wrong. It lies
in [0, 1] and can only fall as the threshold rises. With n labelled pictures, the smallest threshold t with

    (sum of L_i(t) + 1) / (n + 1) <= R

has E[L(t)] <= R for a further picture that is exchangeable with them: one drawn as they were. The mean is over drawing all of
them; nothing is said of a single picture, nor of pictures of another kind, another method or other words.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common.errors import UserError, in_one_line
from common.files import atomic_path, read_bytes
from evaluation.selective import THRESHOLDS, UNIT, kept

DIGITS = 9  # of a threshold, so that float32 is read back as it was
AGAIN = "Make it with 'zerolabel test' and the same method and words, on pictures with masks."


@dataclass(frozen=True)
class Risks:
    """What labelled pictures say of each threshold; ``test`` leaves it as ``risk.json``.

    Attributes:
        asked: what was asked of which method (:func:`asked_of`): it must be the same where a threshold is used.
        data: the labelled pictures, and how many they are.
        thresholds: (T,) ascending, the first 0.
        loss: (T,) mean loss of the pictures at each.
        coverage: (T,) share of all counted pixels that is kept; ``risk`` of those the share that is wrong.
    """

    asked: dict[str, Any]
    data: str
    pictures: int
    thresholds: list[float]
    loss: list[float]
    coverage: list[float]
    risk: list[float]

    @classmethod
    def of(cls, asked: dict[str, Any], data: str, histogram: Tensor, losses: Tensor, judged: int) -> Risks:
        """From the counts of :class:`evaluation.selective.RiskCoverage`, without thresholds that reject no more than others."""
        size, wrong = (part.flip(0) for part in kept(histogram))
        told = torch.cat([histogram.new_ones(1), histogram.sum(0)[:-1]]) > 0  # else it keeps what the one before keeps
        shares = size / size[0].clamp_min(1), wrong / size.clamp_min(1)
        rows = (THRESHOLDS.to(told.device), losses.double() / UNIT / max(judged, 1), *shares)
        thresholds, loss, coverage, risk = ([float(f"{x:.{DIGITS}g}") for x in row[told].tolist()] for row in rows)
        return cls(asked, data, judged, thresholds, loss, coverage, risk)

    def save(self, path: Path) -> None:
        """Writes it as JSON."""
        with atomic_path(path) as temporary:
            temporary.write_text(json.dumps(asdict(self)))

    @classmethod
    def read(cls, path: Path) -> Risks:
        """Reads what :meth:`save` wrote.

        Raises:
            UserError: no such file, or one that holds something else.
        """
        content = read_bytes(path)
        try:
            found = cls(**json.loads(content))
            columns = (found.thresholds, found.loss, found.coverage, found.risk)
            numbers = all(isinstance(x, int | float) for column in columns for x in column)
            if not numbers or len({len(column) for column in columns}) != 1 or not isinstance(found.pictures, int):
                raise ValueError("its columns do not fit")
        except (ValueError, TypeError) as error:
            raise UserError(f"'{path}' is no risk file: {in_one_line(error)}. {AGAIN}") from error
        return found

    def bound(self, place: int) -> float:
        """What the mean loss at a threshold is at most, for a further picture."""
        return (self.pictures * self.loss[place] + 1) / (self.pictures + 1)

    def threshold(self, risk: float) -> float:
        """The smallest threshold whose :meth:`bound` is at most ``risk``.

        Raises:
            UserError: there is none, since the pictures are too few or the most confident pixels are wrong.
        """
        if 1 / (self.pictures + 1) > risk:
            raise UserError(
                f"a risk of {risk:g} takes more labelled pictures: {self.pictures} cannot vouch for less than "
                f"{1 / (self.pictures + 1):.3g}. Ask for a higher risk, or test on more."
            )
        for place, threshold in enumerate(self.thresholds):
            if self.bound(place) <= risk:
                return threshold
        least = self.bound(len(self.thresholds) - 1)
        raise UserError(
            f"no threshold has a risk of {risk:g}: even of the most confident pixels so many are wrong that it is {least:.3f}. "
            "Ask for a higher risk."
        )

    def place(self, threshold: float) -> int:
        """Where the numbers of any threshold stand: those of the one below it, as no pixel lies between."""
        return bisect_right(self.thresholds, threshold) - 1

    def check(self, asked: dict[str, Any], path: Path) -> None:
        """Asserts that it was made of what predicts now.

        Raises:
            UserError: of another method, other weights, protocol or words.
        """
        for part, now in asked.items():
            then = self.asked.get(part)
            if then != now:
                raise UserError(f"'{path}' is of other {part}: {_differing(then, now)}, not {_differing(now, then)}. {AGAIN}")


def _differing(value: Any, other: Any) -> str:
    """What of a value the other does not have, in short."""
    if isinstance(value, dict) and isinstance(other, dict):
        value = ", ".join(f"{key}: {one}" for key, one in value.items() if other.get(key) != one) or "none beside these"
    text = str(value)
    return f"{text[:80]}{'...' if len(text) > 80 else ''}"
