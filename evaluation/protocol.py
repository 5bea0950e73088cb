"""Protocol: everything that turns a method's scores of an image into a label map, frozen, typed and hashed.

The same method gives different numbers under different rules (SCLIP's VOC20 81.5 becomes 77.0 in TCL's evaluator), so a
result without its protocol hash does not exist, and two protocols never share a column. A protocol has three parts: which
*windows* of an image are scored, how words become a *prompt*, and how scores become a *decision*. A method says which rules
it follows; its hash and its words cover those that had an effect and no others, and asking for one that would be ignored is
an error.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from common.errors import UserError, known
from evaluation.rules import LEARNT_RULES, PART_OF, RULES, Decision, Prompt, Windows, settings

NEEDS = {
    "stride": "windows, that is a crop",
    "upsampling": "the whole image at once, that is crop: null",
    "logit_bias": "activation: sigmoid",
    "ensemble": "a set of several templates",
    "background_value": "a background rule, such as background: threshold",
    "pamr_dilations": "refine: pamr",
    "pamr_iterations": "refine: pamr",
    "neighbours": "refine: neighbours",
    "neighbour_steps": "refine: neighbours",
}  # of a rule that does nothing alone, what else must be set


@dataclass(frozen=True)
class Protocol:
    """The rules of one evaluation.

    Attributes:
        windows: which parts of an image are scored.
        prompt: how words become text embeddings.
        decision: how scores become labels.
        name: the preset it came from; not part of the hash, nor is what follows.
        published: what the authors report under this preset, per cent mIoU of their own method; None where they do not.
        deviates: how the preset differs from what the authors released.
        follows: the rules that the method follows; the others are neither hashed nor described.
    """

    windows: Windows = field(default_factory=Windows)
    prompt: Prompt = field(default_factory=Prompt)
    decision: Decision = field(default_factory=Decision)
    name: str = "custom"
    published: float | None = None
    deviates: str = ""
    follows: frozenset[str] = RULES

    @staticmethod
    def known_presets() -> list[str]:
        return sorted(settings("protocols.yaml"))

    @classmethod
    def preset(cls, name: str, benchmark: str | None = None, **values: Any) -> Protocol:
        """A paper's rules for a benchmark (a vocabulary's name), with single values changed.

        Raises:
            UserError: unknown preset, unknown rule or impossible value.
        """
        known("protocol", name, cls.known_presets())
        entry = settings("protocols.yaml")[name]
        for key in values:
            known("protocol setting", key, RULES)
        published = None if values else entry.get("published", {}).get(benchmark)
        empty = cls(name=name, published=published, deviates=entry.get("deviates", ""))
        return empty.changed(**entry["default"] | entry.get(benchmark, {}) | values)

    def changed(self, **values: Any) -> Protocol:
        """The same rules but for some values."""
        of_part: dict[str, dict[str, Any]] = {}
        for rule, value in values.items():
            of_part.setdefault(PART_OF[rule], {})[rule] = value
        return replace(self, **{part: replace(getattr(self, part), **changes) for part, changes in of_part.items()})

    def without_background(self) -> Protocol:
        """The same rules for a label space that has no background class."""
        return self.changed(background="none", background_value=0.0, area_threshold=0.0)

    def followed_by(self, method: str, follows: Collection[str], requested: Mapping[str, Any]) -> Protocol:
        """The protocol as a method follows it.

        Args:
            method: its name, for messages.
            follows: names of the rules that it follows.
            requested: the rules that the user has set, with their values.

        Raises:
            UserError: a rule was asked for that would be ignored, by this method or with the other rules as they are.
        """
        if ignored := [rule for rule in requested if rule not in follows]:
            raise UserError(
                f"{method} does not follow the protocol's {ignored[0]}, so the value would be ignored; leave it away. "
                f"{method} follows {', '.join(sorted(follows))}."
            )
        own = replace(self, follows=frozenset(follows))
        for rule, value in requested.items():
            if rule not in own.in_effect() and value is not None:  # no crop and no stride is a whole image
                raise UserError(f"the protocol's {rule} would be ignored: it needs {NEEDS[rule]}.")
        return own

    def in_effect(self) -> dict[str, Any]:
        """The followed rules, by name, that do something beside the others."""
        values = {rule: getattr(getattr(self, part), rule) for rule, part in PART_OF.items() if rule in self.follows}
        idle: set[str] = set()
        if self.windows.crop is None:
            idle.add("stride")
        else:
            idle.add("upsampling")
        if self.decision.activation != "sigmoid":
            idle.add("logit_bias")
        if len(self.prompt.template_list) == 1:
            idle.add("ensemble")
        if self.decision.background == "none":
            idle.add("background_value")
        if self.decision.refine != "pamr":
            idle |= {"pamr_dilations", "pamr_iterations"}
        if self.decision.refine != "neighbours":
            idle |= {"neighbours", "neighbour_steps"}
        return {rule: value for rule, value in values.items() if rule not in idle}

    @property
    def content(self) -> dict[str, Any]:
        """:meth:`in_effect` with the templates' text in the place of their set's name, and without antialiasing where off."""
        rules = {rule: value for rule, value in self.in_effect().items() if (rule, value) != ("antialias", False)}
        return self._with_templates(rules)

    @property
    def learnt_by(self) -> dict[str, Any]:
        """The rules that can act on what a training learns, whichever the method follows, with the templates' text."""
        return self._with_templates({rule: getattr(getattr(self, PART_OF[rule]), rule) for rule in sorted(LEARNT_RULES)})

    def _with_templates(self, rules: dict[str, Any]) -> dict[str, Any]:
        return {rule: self.prompt.template_list if rule == "templates" else value for rule, value in rules.items()}

    @property
    def hash(self) -> str:
        """12 hex digits over every followed rule that is in effect and the templates' text, not the name."""
        return hashlib.sha256(json.dumps(self.content, sort_keys=True).encode()).hexdigest()[:12]

    @property
    def column_hash(self) -> str:
        """The hash over all rules, whichever the method follows: methods with the same one share a column."""
        return self.followed_whole().hash

    def followed_whole(self) -> Protocol:
        """The same rules for a method that follows all of them."""
        return replace(self, follows=RULES)
