"""Protocol: everything that turns a method's class scores for a picture into a label map, frozen and hashed.

The same method gives different numbers under different rules (SCLIP's VOC20 81.5 becomes 77.0 in TCL's evaluator), so
a result without its protocol hash does not exist, and two protocols never share a column.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args

import yaml

from common.errors import UserError, known

Background = Literal["none", "words", "threshold", "constant"]
Activation = Literal["softmax", "sigmoid"]
Synonyms = Literal["max", "mean"]
Ensemble = Literal["unit", "raw"]
PositionResize = Literal["scaled_bicubic", "bicubic", "antialias", "bilinear"]
Refine = Literal["none", "pamr", "neighbours"]
_CHOICES = {
    "background": Background,
    "activation": Activation,
    "synonyms": Synonyms,
    "ensemble": Ensemble,
    "position_resize": PositionResize,
    "refine": Refine,
}


@cache
def _yaml(name: str) -> dict[str, Any]:
    return dict(yaml.safe_load(Path(__file__).with_name(name).read_text(encoding="utf-8")))


@dataclass(frozen=True)
class Protocol:
    """The rules of one evaluation.

    Attributes:
        name: the preset it came from; not part of the hash.
        short_side: pixels; the picture is resized to it keeping its ratio (bilinear, cv2 style).
        max_long_side: pixels; a longer side is shrunk to it instead.
        crop: side of the square windows in pixels, or None for the whole picture.
        stride: step between windows; the last window is shifted back inside the picture.
        templates: name of a prompt template set.
        ensemble: "unit" normalises each template's embedding before the mean (OpenAI, SCLIP), "raw" only after
            (GroupViT).
        wording: which list of words to ask, see :class:`evaluation.Vocabulary`.
        synonyms: a class takes the "max" over its synonyms' probabilities (SCLIP), or asks their "mean" embedding.
        temperature: what cosines are multiplied with before the activation; calibrated logits are left alone.
        activation: "softmax" over all words asked, or "sigmoid" for each (TCL).
        background: "words" asks the background's own words, and pixels whose best probability is below the value are
            background too (SCLIP); "threshold" asks none and thresholds at min(value, best of the picture) (GroupViT,
            ZeroSeg); "constant" is a channel of that value (TCL); "none" is plain argmax.
        background_value: that probability, 0..1.
        area_threshold: classes that cover at most this share of the predicted foreground are dropped (SCLIP on VOC21).
        position_resize: how position embeddings are brought to another grid: "scaled_bicubic" passes a scale factor of
            (h + 0.1) / h0 (SCLIP family), "bicubic" the size (GroupViT), "antialias" (GEM), "bilinear" (CLIP Surgery).
        refine: "pamr" smooths the class maps along the picture's edges before the argmax, "neighbours" (IFSeg) averages the
            probabilities of a window's most similar cells.
        pamr_dilations: distances of PAMR's neighbours, pixels of the resized picture.
        pamr_iterations: PAMR's steps.
        gate_classes: where a method has segment tokens, a class counts as much for a token as it does among this many best
            classes of the whole picture (GroupViT's code: 5); 0 for no such gate.
        neighbours: cells that are averaged, itself included.
        neighbour_steps: how often.
    """

    name: str = "custom"
    short_side: int = 336
    max_long_side: int = 2048
    crop: int | None = 224
    stride: int | None = 112
    templates: str = "openai80"
    ensemble: Ensemble = "unit"
    wording: str = "names"
    synonyms: Synonyms = "max"
    temperature: float = 40.0
    activation: Activation = "softmax"
    background: Background = "none"
    background_value: float = 0.0
    area_threshold: float = 0.0
    position_resize: PositionResize = "scaled_bicubic"
    refine: Refine = "none"
    pamr_dilations: tuple[int, ...] = (8, 16)
    pamr_iterations: int = 10
    gate_classes: int = 0
    neighbours: int = 3
    neighbour_steps: int = 25

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            known(f"protocol {name}", getattr(self, name), get_args(choices))
        known("template set", self.templates, _yaml("templates.yaml"))
        if self.crop is not None and not (self.stride and 0 < self.stride <= self.crop):
            raise UserError(f"protocol stride is {self.stride}; with windows of {self.crop} it must be 1..{self.crop}.")
        if self.short_side < 1 or self.temperature <= 0:
            raise UserError(f"protocol short_side {self.short_side} and temperature {self.temperature} must be positive.")
        object.__setattr__(self, "pamr_dilations", tuple(self.pamr_dilations))

    @staticmethod
    def known_presets() -> list[str]:
        return sorted(_yaml("protocols.yaml"))

    @classmethod
    def preset(cls, name: str, benchmark: str | None = None, **overrides: Any) -> Protocol:
        """A paper's rules for a benchmark (a vocabulary's name), with single values overridden.

        Raises:
            UserError: unknown preset, unknown field or impossible value.
        """
        known("protocol", name, cls.known_presets())
        entry = _yaml("protocols.yaml")[name]
        for key in overrides:
            known("protocol setting", key, [f.name for f in fields(cls)])
        return cls(**{"name": name} | entry["default"] | entry.get(benchmark, {}) | overrides)

    def without_background(self) -> Protocol:
        """The same rules for a label space that has no background class."""
        return replace(self, background="none", background_value=0.0, area_threshold=0.0)

    @property
    def template_list(self) -> list[str]:
        return list(_yaml("templates.yaml")[self.templates])

    @property
    def hash(self) -> str:
        """12 hex digits over every rule and the templates' text, not the name."""
        content = asdict(self) | {"templates": self.template_list}
        del content["name"]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]

    def describe(self) -> list[str]:
        """The rules in words, for reports."""
        windows = "the whole picture at once"
        if self.crop is not None:
            windows = f"windows of {self.crop} x {self.crop} with stride {self.stride}, scores averaged where they overlap"
        activation = "softmax over all words" if self.activation == "softmax" else "a sigmoid per word"
        background = {
            "none": "No rule for background: every pixel takes its best class, background among them where it has words.",
            "words": "Background is asked by its own words"
            + (f"; pixels with a best probability below {self.background_value} join it." if self.background_value else "."),
            "threshold": f"Background is where the best probability is below {self.background_value} "
            "(or below the picture's best, if that is lower).",
            "constant": f"Background is a constant channel of {self.background_value}.",
        }[self.background]
        lines = [
            f"Pictures are resized to a short side of {self.short_side} px (long side at most {self.max_long_side}), "
            f"bilinear, ratio kept; {windows}.",
            f"Words are put into the {len(self.template_list)} template(s) of '{self.templates}' and averaged"
            f"{'' if self.ensemble == 'unit' else ' before normalising'}; wording '{self.wording}'; a class takes the "
            f"{'best' if self.synonyms == 'max' else 'mean embedding'} of its synonyms.",
            f"Cosines times {self.temperature:g}, {activation}; calibrated logits are taken as they are. {background}",
        ]
        if self.area_threshold:
            lines.append(f"Classes covering at most {self.area_threshold:.0%} of the predicted foreground are dropped.")
        if self.gate_classes:
            lines.append(f"Segment tokens: each class also weighs as it does among the picture's best {self.gate_classes}.")
        if self.refine == "neighbours":
            lines.append(f"Mean over the {self.neighbours} most similar cells, {self.neighbour_steps} times.")
        if self.refine == "pamr":
            lines.append(f"PAMR, {self.pamr_iterations} iterations, dilations {self.pamr_dilations}.")
        lines.append(
            f"Position embeddings: {self.position_resize.replace('_', ' ')}. Labels are compared at the original size."
        )
        return lines
