"""``predict --export coco,voc --instances --min_area 50 --unsure 0.6``: what they say, checked before anything is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any, get_type_hints

from common.errors import UserError, known
from reporting.exporting import Exports
from reporting.exports import FORMATS
from reporting.exports.regions import RegionRules

SWITCHES = ("--instances",)  # that need no value
EXPORT_OPTIONS = ("--export", *SWITCHES, "--min_area", "--unsure")


def exports_of(given: Mapping[str, str]) -> Exports | None:
    """What the options ask for; None without ``--export``.

    Raises:
        UserError: an unknown format, a value out of range, or an option of exports without one.
    """
    if "--export" not in given:
        if given:
            raise UserError(f"{next(iter(given))} is of exports: add --export with some of {', '.join(FORMATS)}.")
        return None
    formats = [known("export format", name.strip(), FORMATS) for name in given["--export"].split(",")]
    rules: dict[str, Any] = {}
    if "--instances" in given:
        rules["instances"] = known("value of --instances", given["--instances"], ("true", "false")) == "true"
    hints = get_type_hints(RegionRules, include_extras=True)
    for option in ("--min_area", "--unsure"):
        if option in given:
            name = option.removeprefix("--")
            rules[name] = number(option, given[option], hints[name])
    return Exports(tuple(dict.fromkeys(formats)), RegionRules(**rules))


def number(option: str, text: str, hint: Any) -> float:
    """The text as the kind of number that an annotation of :mod:`common.values` names, within its limits."""
    value: Any = text
    with suppress(ValueError):  # then it stays a text, which is what the check says
        value = hint.__origin__(text)
    hint.__metadata__[0].check(option, value, hint.__origin__)
    return value
