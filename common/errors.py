"""The one error that is meant for users, and answers to names that nobody knows."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class UserError(ValueError):
    """A mistake the user can mend: one line that names the thing, the value and the way out. Exit code 2."""

    def __init__(self, message: str) -> None:
        """A loader worker's error arrives as its whole traceback, of which the last line is the message."""
        in_worker = message.startswith("Caught UserError in DataLoader worker")
        super().__init__(message.rstrip().rpartition("UserError: ")[2] if in_worker else message)


@contextmanager
def about(what: str) -> Iterator[None]:
    """Puts what a mistake is about before its message."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{what}: {error}") from error


def in_one_line(error: Exception) -> str:
    """A library's error as part of a message: its text without line breaks, not too long; its kind where it has none."""
    return " ".join(str(error).split())[:300] or type(error).__name__


def causes(error: BaseException | None) -> list[BaseException]:
    """An error, what it was raised from or while handling, and so on."""
    found: list[BaseException] = []
    while error is not None and error not in found:  # one that is raised from itself has no end
        found.append(error)
        error = error.__cause__ or error.__context__
    return found


def how_to_install(extra: str) -> str:
    """The way to what an optional part needs."""
    return f"pip install 'zerolabel[{extra}]' (in a checkout: pip install -e '.[{extra}]')."


def known(kind: str, value: str, names: Iterable[str]) -> str:
    """Returns ``value`` if it is one of ``names``.

    Raises:
        UserError: otherwise, naming the nearest and all known names.
    """
    names = sorted(names)
    if value in names:
        return value
    near = difflib.get_close_matches(value, names, n=1)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    raise UserError(f"unknown {kind} '{value}'.{hint} Known: {', '.join(names)}.")
