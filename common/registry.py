"""Finding classes by what they descend from, so that a new method or benchmark is one file and no list."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import pkgutil
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")


def modules_below(package: str, path: Iterable[str], skip: Iterable[str] = ()) -> Iterator[str]:
    """Names of the modules of a package and of the packages in it; those below ``skip`` are left out. Imports nothing."""
    for found in pkgutil.iter_modules(path, package + "."):
        if found.name in skip:
            continue
        yield found.name
        if found.ispkg:
            inside = [str(Path(folder, found.name.rpartition(".")[2])) for folder in path]
            yield from modules_below(found.name, inside, skip)


def subclasses_below(package: str, path: Iterable[str], base: type[T], skip: Iterable[str] = ()) -> dict[str, type[T]]:
    """Imports a package's modules and finds the public concrete classes that descend from ``base``, by name."""
    found: dict[str, type[T]] = {}
    for name in modules_below(package, path, skip):
        module = importlib.import_module(name)
        for key, value in vars(module).items():
            public = isinstance(value, type) and value.__module__ == name and not key.startswith("_")
            if public and issubclass(value, base) and value is not base and not inspect.isabstract(value):
                found[key] = value
    return dict(sorted(found.items()))


def load_class(package: str, path: Iterable[str], name: str) -> Any:
    """The class ``name`` of whichever module of a package defines it; imports that module alone.

    Raises:
        AttributeError: no module does.
    """
    for module in modules_below(package, path):
        spec = importlib.util.find_spec(module)
        source = Path(spec.origin) if spec and spec.origin else None
        if source and re.search(rf"^class {re.escape(name)}\b", source.read_text(encoding="utf-8"), re.MULTILINE):
            return getattr(importlib.import_module(module), name)
    raise AttributeError(f"module '{package}' has no attribute '{name}'")
