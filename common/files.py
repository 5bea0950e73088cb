"""Where files lie, and how they are written: whole or not at all."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from common.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

ROOT = Path(__file__).parents[1]  # the checkout, or the folder that a wheel was installed into
_made: set[Path] = set()


def file_name(text: str) -> str:
    """A name of a file or folder that reads like the text."""
    return re.sub(r"[^\w.-]+", "_", text).strip("_")


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


@contextmanager
def atomic_folder(path: Path | str) -> Iterator[Path]:
    """Yields an empty folder beside ``path`` that replaces it, and all that is in it, only if the block succeeds.

    Raises:
        UserError: if it cannot be written or the disk is full.
    """
    path = Path(path)
    made: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
        made.chmod(path.parent.stat().st_mode & 0o777)
        yield made
        if path.exists():
            path.rename(_replaced(made))
        made.rename(path)
    except OSError as error:
        raise UserError(f"cannot write '{path}': {error.strerror or error}. Nothing was replaced.") from error
    finally:
        if made is not None:
            if _replaced(made).exists() and not path.exists():  # stopped between the two
                _replaced(made).rename(path)
            shutil.rmtree(made, ignore_errors=True)
            shutil.rmtree(_replaced(made), ignore_errors=True)


def _replaced(made: Path) -> Path:
    """Where the folder lies that a new one has replaced, until it is removed; a name that nothing has."""
    return made.with_name(f"{made.name}.replaced")


def walk(folder: Path | str) -> Iterator[tuple[str, list[str], list[str]]]:
    """``os.walk``, which would pass over a folder that cannot be listed as if it were empty.

    Raises:
        UserError: there is such a folder.
    """

    def unreadable(error: OSError) -> None:
        raise UserError(f"folder '{error.filename}' cannot be read: {error.strerror}.") from error

    return os.walk(folder, onerror=unreadable)


def save_tensors(path: Path, tensors: dict[str, Tensor], texts: dict[str, str]) -> None:
    """A safetensors file, whole or not at all.

    Raises:
        UserError: it cannot be written.
    """
    from safetensors import SafetensorError  # here, so that help and mistakes answer without torch
    from safetensors.torch import save_file

    with atomic_path(path) as temporary:
        try:
            save_file(tensors, temporary, texts)
        except SafetensorError as error:  # which is how its writer says that the disk is full
            raise OSError(" ".join(str(error).split())) from error


def writable_folder(path: Path | str) -> Path:
    """Makes the folder and proves that a file can be written in it.

    Raises:
        UserError: if it cannot be made or written.
    """
    path = Path(path)
    _made.update(folder for folder in (path, *path.parents) if not folder.exists())
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path):
            pass
    except OSError as error:
        raise UserError(f"output folder '{path}' is not writable: {error.strerror}. Choose another one.") from error
    return path


def remove_empty_folders() -> None:
    """Takes back what :func:`writable_folder` made for a command that then failed before it wrote anything."""
    for folder in sorted(_made, key=lambda folder: len(folder.parts), reverse=True):
        with suppress(OSError):  # it is not empty
            folder.rmdir()
    _made.clear()


def cache_folder(*parts: str) -> Path:
    """``$ZEROLABEL_CACHE`` (default ``~/.cache/zerolabel``) and ``parts``; not created."""
    root = os.environ.get("ZEROLABEL_CACHE") or Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")) / "zerolabel"
    return Path(root).expanduser().joinpath(*parts)


def shipped(path: str) -> str:
    """``path`` if it is there, else the shipped ``configs/...`` of that name: an installed zerolabel works in any folder."""
    beside_the_code = ROOT / path
    usable = Path(path).parts[:1] == ("configs",) and not Path(path).exists() and beside_the_code.is_file()
    return str(beside_the_code) if usable else path


def read_lines(path: Path | str, what: str = "file") -> list[str]:
    """The lines of a text that say something: stripped, neither blank nor a comment (``# ...``).

    Raises:
        UserError: missing, unreadable, or not UTF-8.
    """
    try:
        lines = [line.strip() for line in read_bytes(path).decode("utf-8-sig").splitlines()]
    except UnicodeDecodeError as error:
        raise UserError(f"{what} '{path}' is not UTF-8 text.") from error
    return [line for line in lines if line and not line.startswith("#")]


def read_yaml(path: Path | str) -> dict[str, Any]:
    """The mapping that a YAML file holds; tags that would make Python objects are refused.

    Raises:
        UserError: missing, unreadable, no YAML, or no mapping.
    """
    try:
        content = yaml.safe_load(read_bytes(path).decode("utf-8"))
    except UnicodeDecodeError as error:
        raise UserError(f"'{path}' is no YAML file: it holds bytes that are no text.") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = getattr(error, "problem", None) or " ".join(str(error).split())
        raise UserError(f"'{path}' is no valid YAML{where}: {problem}.") from error
    if not isinstance(content, dict):
        raise UserError(f"'{path}' holds no options; write 'name: value' lines, as in the shipped configs.")
    return content


def read_bytes(path: Path | str) -> bytes:
    """The content of a file.

    Raises:
        UserError: missing or unreadable.
    """
    try:
        return Path(path).read_bytes()
    except FileNotFoundError as error:
        raise UserError(f"'{path}' does not exist.") from error
    except OSError as error:
        raise UserError(f"'{path}' cannot be read: {error.strerror}.") from error
