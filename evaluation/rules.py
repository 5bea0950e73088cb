"""The rules of a protocol: its three parts, typed, each value checked when it is set."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypedDict, get_args, get_origin, get_type_hints

import yaml

from common.errors import UserError, known
from common.values import Within

Background = Literal["none", "words", "threshold", "constant"]
Activation = Literal["softmax", "sigmoid"]
Synonyms = Literal["max", "mean"]
Ensemble = Literal["unit", "raw"]
PositionResize = Literal["scaled_bicubic", "bicubic", "antialias", "bilinear"]
Refine = Literal["none", "pamr", "neighbours"]
Upsampling = Literal["direct", "twice"]


class ProtocolValues(TypedDict, total=False):
    """Single rules to change; :class:`Windows`, :class:`Prompt` and :class:`Decision` say what they mean."""

    short_side: int
    max_long_side: int
    antialias: bool
    crop: int | None
    stride: int | None
    upsampling: Upsampling
    position_resize: PositionResize
    templates: str
    ensemble: Ensemble
    wording: str
    synonyms: Synonyms
    temperature: float
    activation: Activation
    logit_bias: float
    background: Background
    background_value: float
    area_threshold: float
    gate_classes: int
    refine: Refine
    pamr_dilations: list[int]
    pamr_iterations: int
    neighbours: int
    neighbour_steps: int


@cache
def settings(name: str) -> dict[str, Any]:
    """The content of a YAML file beside this one."""
    return dict(yaml.safe_load(Path(__file__).with_name(name).read_text(encoding="utf-8")))


def _within(default: Any, low: float, high: float = math.inf) -> Any:
    """A field whose value must lie in [low, high]."""
    return field(default=default, metadata={"within": Within(low, high)})


class _Part:
    """A part of a protocol, whose values are checked when it is made.

    Raises:
        UserError: a value of another type or outside its range.
    """

    def __post_init__(self) -> None:
        hints = get_type_hints(type(self))
        for rule in fields(self):  # type: ignore[arg-type]
            value, hint = getattr(self, rule.name), hints[rule.name]
            if get_origin(hint) is Literal:
                known(f"protocol {rule.name}", str(value), get_args(hint))
            elif hint is str and not isinstance(value, str):
                raise UserError(f"protocol {rule.name} is {value!r}; it must be a name.")
            elif hint is bool and not isinstance(value, bool):
                raise UserError(f"protocol {rule.name} is {value!r}; it must be true or false.")
            elif "within" in rule.metadata and not (value is None and type(None) in get_args(hint)):
                for number in value if isinstance(value, tuple) else (value,):
                    rule.metadata["within"].check(f"protocol {rule.name}", number, float if hint is float else int)


@dataclass(frozen=True)
class Windows(_Part):
    """Which parts of an image are scored, and at which size.

    Attributes:
        short_side: pixels; the image is resized to it keeping its ratio (bilinear, cv2 style); 0 for its own size.
        max_long_side: pixels; a longer side is shrunk to it instead.
        antialias: whether pixels are averaged where the image shrinks, which large photographs need and published evaluators do
            not do.
        crop: side of the square windows in pixels, or None for the whole image.
        stride: step between windows; the last window is shifted back inside the image.
        upsampling: how the scores of a whole image come to its original size: "direct" from the grid (IFSeg), or "twice", over
            the resized image (NACLIP), as the scores of windows always do.
        position_resize: how a ViT's position embeddings are brought to a window's grid: "scaled_bicubic" passes a scale factor
            of (h + 0.1) / h0 (SCLIP family), "bicubic" the size (GroupViT), "antialias" (GEM), "bilinear" (CLIP Surgery).
    """

    short_side: int = _within(336, 0)
    max_long_side: int = _within(2048, 1)
    antialias: bool = False
    crop: int | None = _within(224, 1)
    stride: int | None = _within(112, 1)
    upsampling: Upsampling = "direct"
    position_resize: PositionResize = "scaled_bicubic"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.crop is not None and (self.stride is None or self.stride > self.crop):
            raise UserError(f"protocol stride is {self.stride}; with windows of {self.crop} it must be 1..{self.crop}.")


@dataclass(frozen=True)
class Prompt(_Part):
    """How the words of a class become text embeddings.

    Attributes:
        templates: name of a prompt template set.
        ensemble: "unit" normalises each template's embedding before the mean (OpenAI, SCLIP), "raw" only after (GroupViT).
        wording: which list of words to ask, see :class:`evaluation.Vocabulary`.
        synonyms: a class takes the "max" over its synonyms' probabilities (SCLIP), or asks their "mean" embedding.
    """

    templates: str = "openai80"
    ensemble: Ensemble = "unit"
    wording: str = "names"
    synonyms: Synonyms = "max"

    def __post_init__(self) -> None:
        super().__post_init__()
        known("template set", self.templates, settings("templates.yaml"))

    @property
    def template_list(self) -> list[str]:
        """The prompts, with ``{}`` for the word."""
        return list(settings("templates.yaml")[self.templates])


@dataclass(frozen=True)
class Decision(_Part):
    """How scores become labels.

    Attributes:
        temperature: what cosines are multiplied with before the activation; calibrated logits are left alone.
        activation: "softmax" over all words asked, or "sigmoid" for each, taken in each window before windows are averaged
            (TCL).
        logit_bias: what is added to the scaled cosines before a sigmoid (TCL's masks start from sigmoid(10 cos - 2.5)).
        background: "words" asks the background's own words, and pixels whose best probability is below the value are
            background too (SCLIP); "threshold" asks none: in each window, a background channel is 1 where the best probability
            is below min(value, best of the window), and is averaged with the windows (GroupViT, SegCLIP, ZeroSeg);
            "constant" is a channel of that value (TCL); "none" is plain argmax.
        background_value: that probability, 0..1.
        area_threshold: classes that cover at most this share of the predicted foreground are dropped (SCLIP on VOC21).
        gate_classes: where a method has segment tokens, a class counts as much for a token as it does among this many best
            classes of the whole image (GroupViT's code: 5); 0 for no such gate.
        refine: "pamr" smooths the words' maps along the image's edges, at the original size, "neighbours" (IFSeg) averages the
            probabilities of a window's most similar patches.
        pamr_dilations: distances of PAMR's neighbours, pixels of the original image.
        pamr_iterations: PAMR's steps.
        neighbours: patches that are averaged, itself included.
        neighbour_steps: how often.
    """

    temperature: float = _within(40.0, 1e-6)
    activation: Activation = "softmax"
    logit_bias: float = _within(0.0, -math.inf)
    background: Background = "none"
    background_value: float = _within(0.0, 0, 1)
    area_threshold: float = _within(0.0, 0, 1)
    gate_classes: int = _within(0, 0)
    refine: Refine = "none"
    pamr_dilations: tuple[int, ...] = _within((8, 16), 1)
    pamr_iterations: int = _within(10, 1)
    neighbours: int = _within(3, 1)
    neighbour_steps: int = _within(25, 1)

    def __post_init__(self) -> None:
        dilations: Any = self.pamr_dilations
        if not isinstance(dilations, tuple | list) or not dilations:
            raise UserError(f"protocol pamr_dilations is {dilations!r}; it must be a list of whole numbers such as [8, 16].")
        object.__setattr__(self, "pamr_dilations", tuple(dilations))
        super().__post_init__()


PARTS: dict[str, type[Windows | Prompt | Decision]] = {"windows": Windows, "prompt": Prompt, "decision": Decision}
PART_OF = {rule.name: name for name, part in PARTS.items() for rule in fields(part)}
RULES = frozenset(PART_OF)
WINDOW_RULES = frozenset({"short_side", "max_long_side", "antialias", "crop", "stride", "upsampling"})
PROMPT_RULES = frozenset({"templates", "ensemble", "wording", "synonyms"})
BACKGROUND_RULES = frozenset({"background", "background_value", "area_threshold"})
NEIGHBOUR_RULES = frozenset({"neighbours", "neighbour_steps"})
LEARNT_RULES = PROMPT_RULES | NEIGHBOUR_RULES | {"position_resize"}  # those that can act on what a training learns
DECISION_RULES = frozenset({rule for rule, part in PART_OF.items() if part == "decision"}) - {"gate_classes"}
