"""Command lines as lists of words."""

from __future__ import annotations

from itertools import pairwise


def option_pairs(arguments: list[str]) -> list[tuple[str, str]]:
    """(option, value) of a command line, for ``--option value`` and ``--option=value`` alike."""
    words = [part for word in arguments for part in (word.split("=", 1) if word.startswith("-") else [word])]
    return [(option, value) for option, value in pairwise(words) if option.startswith("-")]
