"""The list command: what zerolabel knows, by kind."""

from __future__ import annotations

import json
from typing import Any

from common.answers import remembered
from common.errors import UserError, known

NAMES = ("methods", "rules", "towers", "datamodules", "vocabularies", "protocols", "exports")
QUOTES = "quotes"
KINDS = (*NAMES, QUOTES)
USAGE = f"""usage: zerolabel list [{"|".join(KINDS)}]

Names what zerolabel knows, of one kind or of all. Quotes are published numbers with their sources.
"""


def run(arguments: list[str]) -> int:
    """Lists one kind, or the names of all."""
    if arguments and arguments[0] in ("-h", "--help"):
        print(USAGE, end="")
        return 0
    if arguments[1:]:
        raise UserError(f"list takes one kind, not '{' '.join(arguments)}'.")
    if arguments:
        known("kind", arguments[0], KINDS)
    if arguments == [QUOTES]:
        print(remembered(QUOTES, quotes))
        return 0
    known_names = json.loads(remembered("list", lambda: json.dumps(names())))
    for kind in arguments or NAMES:
        print(f"{kind}:")
        for name, text in known_names[kind].items():
            print(f"  {name:<20} {text}")
    if not arguments:
        print(f"{QUOTES}:\n  published numbers with their sources: zerolabel list {QUOTES}")
    return 0


def names() -> dict[str, dict[str, str]]:
    """By kind, every name and a few words about it."""
    import datamodules  # here, so that help and mistakes answer at once
    import methods
    from backbones.attention import RULES
    from backbones.towers import known_towers
    from evaluation import Protocol, Vocabulary
    from evaluation.protocol_in_words import in_words
    from reporting.exports import FORMATS

    return {
        "methods": {name: f"sees {cls.sees.value}; {_exported(cls)}" for name, cls in methods.METHODS.items()},
        "rules": dict.fromkeys(RULES, "attention rule of TrainingFree"),
        "towers": known_towers(),
        "datamodules": {name: (cls.__doc__ or "").split("\n")[0] for name, cls in datamodules.DATAMODULES.items()},
        "vocabularies": {n: Vocabulary.load(n).title for n in Vocabulary.known_names()},
        "protocols": {n: "; ".join(in_words(Protocol.preset(n))[:1]) for n in Protocol.known_presets()},
        "exports": {name: (format_.__doc__ or "").split("\n")[0] for name, format_ in FORMATS.items()},
    }


def _exported(method: Any) -> str:
    return f"no export: {method.no_graph}" if method.no_graph else "exported where torch.export can trace it"


def quotes() -> str:
    """The published numbers."""
    from reporting.quotes import listing  # here, so that help and mistakes answer at once

    return "\n".join(listing())
