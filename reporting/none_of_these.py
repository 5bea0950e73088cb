"""``predict --risk R --risk_from risk.json`` and ``--none_below P``: pixels of which the method is not sure get no word."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_only

from common.weights import weights_hash
from evaluation.kept_scores import own_options
from evaluation.risk_control import Risks
from evaluation.selective import none_below

RISKS = "risk.json"  # which a test leaves in its run's folder


@dataclass(frozen=True)
class NoneBelow:
    """A threshold and how it was chosen.

    Attributes:
        threshold: of the probability.
        risk: what was asked for; None where the threshold itself was.
        risks: what it was chosen from, which lies at ``path``.
    """

    threshold: float
    risk: float | None = None
    risks: Risks | None = None
    path: Path | None = None

    @classmethod
    def of_risk(cls, risk: float, risks: Risks, path: Path) -> NoneBelow:
        """The smallest threshold for a risk.

        Raises:
            UserError: there is none.
        """
        return cls(risks.threshold(risk), risk, risks, path)

    def __str__(self) -> str:
        said = f"none of the words where the probability is below {self.threshold:.6g}"
        if self.risks is None:
            return said
        place = self.risks.place(self.threshold)
        coverage, wrong = self.risks.coverage[place], self.risks.risk[place]
        return (
            f"{said}: in the mean at most {self.risk:.1%} of a picture's pixels get a wrong class, if pictures are like the "
            f"{self.risks.pictures} of {self.risks.data}; there {coverage:.1%} keep one, of which {wrong:.1%} are wrong"
        )


class NoneOfThese(Callback):
    """Takes the class from pixels below the threshold before other callbacks see what ``predict`` has found."""

    def __init__(self, chosen: NoneBelow) -> None:
        self.chosen = chosen

    @property
    def notes(self) -> dict[str, Any]:
        """For ``predictions.json``."""
        chosen = self.chosen
        return {"none": {"below": chosen.threshold, "risk": chosen.risk, "risk_from": chosen.path and str(chosen.path)}}

    def on_predict_start(self, trainer: Any, pl_module: Any) -> None:
        if self.chosen.risks is not None and self.chosen.path is not None:
            self.chosen.risks.check(asked_of(pl_module, weights_hash(pl_module)), self.chosen.path)
        rank_zero_only(print)(self.chosen, flush=True)

    def on_predict_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        for place, found in enumerate(outputs):
            if found is not None:  # a picture that could not be read
                outputs[place] = none_below(found, self.chosen.threshold, pl_module.vocabulary.ignore_index)


def asked_of(model: Any, weights: str) -> dict[str, Any]:
    """All that a pixel's class and probability depend on besides the picture, as JSON holds it; ``weights`` are their hash."""
    asked = {
        "methods": type(model).__name__,
        "options": own_options(model),
        "words": {name: ", ".join(words) for name, words in zip(model.vocabulary.names, model.vocabulary.queries, strict=True)},
        "weights": weights,
        "rules": model.protocol.content,
    }
    found: dict[str, Any] = json.loads(json.dumps(asked, default=str))
    return found
