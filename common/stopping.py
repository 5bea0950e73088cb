"""Ctrl-C and SIGTERM end a command with one line and 130 or 143; a rank ends when the process that started it is gone."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from common.errors import causes

GRACE = 5.0  # seconds in which a rank may find out by itself, and say more

_at_once = True


class Terminated(KeyboardInterrupt):
    """SIGTERM, which then ends a run as Ctrl-C does."""


@contextmanager
def stoppable() -> Iterator[None]:
    """Turns SIGTERM into :class:`Terminated` within the block. Signals belong to the main thread; elsewhere nothing changes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    owner = os.getpid()

    def stop(number: int, frame: object) -> None:
        if os.getpid() != owner:  # a loader process that was forked from this one
            os._exit(128 + number)
        if _at_once:
            raise Terminated

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def let_a_step_end(wanted: bool) -> None:
    """While a training that can be gone on with runs, SIGTERM is left to Lightning, which acts between two steps."""
    global _at_once
    _at_once = not wanted


def end_soon(code: int) -> None:
    """Ends the process with this code in a second, should threads that cannot be stopped keep it until then."""

    def end() -> None:
        time.sleep(1)
        os._exit(code)

    threading.Thread(target=end, daemon=True).start()


def stopped_by(error: BaseException) -> signal.Signals | None:
    """The signal behind an error that ends a command.

    Lightning answers Ctrl-C by ``sys.exit(1)``; and it ends the loader processes, too, whose end torch may report as an error
    while the command is stopping.
    """
    found = next((cause for cause in causes(error) if isinstance(cause, KeyboardInterrupt)), None)
    if isinstance(found, Terminated):
        return signal.SIGTERM
    return None if found is None else signal.SIGINT


def end_with_first() -> None:
    """Ends another rank than the first soon after the process that started it is gone; alone it would wait for hours."""
    if os.environ.get("LOCAL_RANK", "0") != "0":
        end_with_parent(GRACE, "error: another process of this run ended (the first). Go on with --ckpt_path last.")


def end_with_parent(grace: float = 0, last_words: str = "") -> None:
    """Ends this process some seconds after the one that started it is gone."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        time.sleep(grace)
        if last_words:
            print(last_words, file=sys.stderr, flush=True)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
