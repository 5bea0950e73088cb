"""The few things every room of the project needs: the user-facing error, atomic writes, the cache folder, the version."""

from __future__ import annotations

import difflib
import hashlib
import importlib
import inspect
import os
import pkgutil
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

__version__ = "0.1.0"
ROOT = Path(__file__).parent  # the checkout, or the folder that a wheel was installed into


class UserError(ValueError):
    """A mistake the user can mend: one line that names the thing, the value and the way out. Exit code 2."""

    def __init__(self, message: str) -> None:
        """A loader worker's error arrives as its whole traceback, of which the last line is the message."""
        in_worker = message.startswith("Caught UserError in DataLoader worker")
        super().__init__(message.rstrip().rpartition("UserError: ")[2] if in_worker else message)


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


@contextmanager
def atomic_path(path: Path | str) -> Iterator[Path]:
    """Yields a temporary path beside ``path`` that replaces it only if the block succeeds.

    Raises:
        UserError: if the folder cannot be written or the disk is full.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=path.suffix)
        os.close(handle)
    except OSError as error:
        raise UserError(f"cannot write '{path}': {error.strerror}. Choose another output folder.") from error
    try:
        yield Path(name)
        umask = os.umask(0)
        os.umask(umask)
        Path(name).chmod(0o666 & ~umask)
        Path(name).replace(path)
    except OSError as error:
        raise UserError(f"cannot write '{path}': {error.strerror or error}. Nothing was replaced.") from error
    finally:
        Path(name).unlink(missing_ok=True)


def writable_folder(path: Path | str) -> Path:
    """Makes the folder and proves that a file can be written in it.

    Raises:
        UserError: if it cannot be made or written.
    """
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path):
            pass
    except OSError as error:
        raise UserError(f"output folder '{path}' is not writable: {error.strerror}. Choose another one.") from error
    return path


def cache_folder(*parts: str) -> Path:
    """``$ZEROLABEL_CACHE`` (default ``~/.cache/zerolabel``) and ``parts``; not created."""
    root = os.environ.get("ZEROLABEL_CACHE") or Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")) / "zerolabel"
    return Path(root).expanduser().joinpath(*parts)


def shipped(path: str) -> str:
    """``path`` if it is there, else the shipped ``configs/...`` of that name: an installed zerolabel works in any folder."""
    beside_the_code = ROOT / path
    usable = Path(path).parts[:1] == ("configs",) and not Path(path).exists() and beside_the_code.is_file()
    return str(beside_the_code) if usable else path


def option_pairs(arguments: list[str]) -> list[tuple[str, str]]:
    """(option, value) of a command line, for ``--option value`` and ``--option=value`` alike."""
    words = [part for word in arguments for part in (word.split("=", 1) if word.startswith("-") else [word])]
    return [(option, value) for option, value in pairwise(words) if option.startswith("-")]


def rank_and_world() -> tuple[int, int]:
    """(rank, processes) of the running job; (0, 1) without one."""
    import torch.distributed as dist  # here, so that help and mistakes answer without it

    running = dist.is_available() and dist.is_initialized()
    return (dist.get_rank(), dist.get_world_size()) if running else (0, 1)


def leave_group() -> None:
    """Ends the group of processes, if there is one: gloo's threads, still there at exit, can abort a process that was done."""
    dist = sys.modules.get("torch.distributed")
    if dist is not None and dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def run_seed(seed: int | None = None) -> int:
    """``seed``, or that of the run (``--seed_everything``) if it is None."""
    return int(os.environ.get("PL_GLOBAL_SEED", "0")) if seed is None else seed


def is_repeat(index: int) -> bool:
    """Whether this process reads the picture only to keep step with the others (``datamodules.sampling``)."""
    rank, world = rank_and_world()
    return index % world != rank


def gathered(rows: list[Any]) -> list[Any]:
    """The rows of all processes, on each of them."""
    import torch.distributed as dist

    parts: list[list[Any]] = [rows] * rank_and_world()[1]
    if len(parts) > 1:
        dist.all_gather_object(parts, rows)
    return [row for part in parts for row in part]


def mean_of_processes(value: float) -> float:
    """The mean of a number of each process, on all of them."""
    import torch
    import torch.distributed as dist

    world = rank_and_world()[1]
    if world == 1:
        return value
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    total = torch.tensor(value, dtype=torch.float64, device=device)
    dist.all_reduce(total)
    return total.item() / world


def state_hash(state: Mapping[str, Any]) -> str:
    """12 hex digits over names, types, shapes and values of a model's weights."""
    import torch  # here, so that help and mistakes answer without it

    digest = hashlib.sha256()
    for key in sorted(state):
        value = state[key].detach().cpu().contiguous()
        digest.update(f"{key}{value.dtype}{tuple(value.shape)}".encode())
        digest.update(value.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:12]


def subclasses_in(package: str, path: Iterable[str], base: str) -> dict[str, Any]:
    """Imports every module of a package and finds the public concrete classes it defines that descend from ``base``.

    This is why a new method or benchmark is one file: no list needs to know it.
    """
    found: dict[str, Any] = {}
    for module_info in pkgutil.iter_modules(path, package + "."):
        module = importlib.import_module(module_info.name)
        for name, value in vars(module).items():
            if isinstance(value, type) and value.__module__ == module.__name__ and not name.startswith("_"):
                ancestors = {ancestor.__name__ for ancestor in value.__mro__[1:]}
                if base in ancestors and not inspect.isabstract(value):
                    found[name] = value
    return found
