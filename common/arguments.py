"""Command lines as lists of words."""

from __future__ import annotations

from collections.abc import Collection
from itertools import pairwise

from common.errors import UserError


def option_pairs(arguments: list[str]) -> list[tuple[str, str]]:
    """(option, value) of a command line, for ``--option value`` and ``--option=value`` alike."""
    words = [part for word in arguments for part in (word.split("=", 1) if word.startswith("-") else [word])]
    return [(option, value) for option, value in pairwise(words) if option.startswith("-")]


def required(given: Collection[str], **examples: str) -> None:
    """Raises a UserError for the first option, by its name, that is not given; the example says how it would be."""
    for name, example in examples.items():
        if f"--{name}" not in given:
            raise UserError(f"--{name} is missing: say --{name} {example}.")


def taken(arguments: list[str], own: Collection[str], switches: Collection[str] = ()) -> tuple[dict[str, str], list[str]]:
    """The values of a command's own options, the last of each, and the words that are left.

    Args:
        arguments: words of a command line.
        own: options with a value, ``--option value`` or ``--option=value``.
        switches: those of them that mean ``true`` where they stand alone.

    Raises:
        UserError: an option without its value.
    """
    values, left = dict[str, str](), list[str]()
    words = iter(arguments)
    for word in words:
        option, equals, value = word.partition("=")
        if option not in own:
            left.append(word)
            continue
        if not equals:
            value = "true" if option in switches else next(words, "")
        if not value:
            raise UserError(f"{option} needs a value.")
        values[option] = value
    return values, left
