"""What libraries say of the user's input and of a run that broke, in one line (:class:`common.errors.UserError`)."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import common.compat  # noqa: F401  (must come before lightning)

from jsonargparse import ArgumentError
from lightning.fabric.utilities.exceptions import MisconfigurationException

from commands.network import OFFLINE, offline_hint
from commands.option_errors import explain
from common.errors import UserError, causes

LOADER_ENDED = (
    "a loader process ended ({}), most often for want of memory. Go on with --ckpt_path last, and fewer of them: "
    "--data.num_workers 0."
)


@contextmanager
def plain_errors() -> Iterator[None]:
    """Turns jsonargparse's and torch's messages about the user's input into one line."""
    try:
        yield
    except (ArgumentError, ValueError) as error:
        cause = next((e for e in causes(error) if isinstance(e, UserError)), None)
        if cause is not None and any(isinstance(e, OFFLINE) for e in causes(error)):
            raise UserError(f"{str(cause).partition(': ')[0]}: {offline_hint()}") from error
        if cause is None and not isinstance(error, ArgumentError):
            raise
        raise cause or UserError(explain(str(error))) from error
    except MisconfigurationException as error:
        raise UserError(" ".join(str(error).split())[:500]) from error
    except RuntimeError as error:
        if (explained := explain_runtime_error(str(error))) is None:
            raise
        raise UserError(explained) from error
    except (OSError, EOFError) as error:  # a batch that a dead loader process was to hand over
        if not any(frame.name == "_try_get_data" for frame in traceback.extract_tb(error.__traceback__)):
            raise
        raise UserError(LOADER_ENDED.format(error)) from error


def explain_runtime_error(message: str) -> str | None:
    """One line for what torch says of checkpoints, loader processes and other ranks; None for anything else."""
    text = " ".join(message.split()).partition(" This is typically")[0][:300]
    if "loading state_dict" in message:
        return f"the checkpoint is of another model: {text}"
    if "DataLoader worker" in message and ("killed" in message or "exited unexpectedly" in message):
        return LOADER_ENDED.format(text)
    if any(sign in message for sign in ("Connection closed by peer", "Connection reset by peer", "NCCL error", "Broken pipe")):
        return f"another process of this run ended ({text}). Its own message says why; go on with --ckpt_path last."
    return None
