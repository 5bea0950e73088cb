"""Which code made something: the files of the maker and those of the project that it imports, and no others.

A number that is kept is thrown away when the code that made it changes, and only then: not by another method's file, and not
by a comment or a docstring.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from common.files import ROOT


def code_of(*makers: Any) -> str:
    """16 hex digits over what the makers (classes, functions or modules) and all that they import would do.

    Imports are followed through the project's own files, and through those beside a maker that lies elsewhere. Libraries
    are not code of ours: their versions stand in every result.
    """
    digest = hashlib.blake2b(digest_size=8)
    for path in code_files(*makers):
        digest.update(_behaviour(path))
    return digest.hexdigest()


def code_files(*makers: Any) -> list[Path]:
    """The files that :func:`code_of` looks at, sorted."""
    found: set[Path] = set()
    for maker in makers:
        module = maker.__name__ if inspect.ismodule(maker) else maker.__module__
        file = Path(
            str(sys.modules[module].__file__)
        ).resolve()  # a decorated function lies in its own module, not in its wrapper's
        root = file.parents[module.count(".") + (file.name == "__init__.py")] if module != "__main__" else file.parent
        _follow(file, [ROOT.resolve(), root], found)
    return sorted(found)


def _follow(file: Path, roots: list[Path], found: set[Path]) -> None:
    if file in found:
        return
    found.add(file)
    for name, level in _imported(file):
        roots_of_name = roots if not level else [file.parents[level - 1]]
        for root in roots_of_name:
            path = root.joinpath(*name.split("."))
            for candidate in (path.with_suffix(".py"), path / "__init__.py"):
                if candidate.is_file():
                    _follow(candidate, roots, found)


@cache
def _imported(file: Path) -> list[tuple[str, int]]:
    """Modules that a file imports, with the dots before them, and those that may be (``from package import module``)."""
    names: list[tuple[str, int]] = []
    for node in _statements(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [(alias.name, 0) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            package = f"{node.module}." if node.module else ""
            names += [(node.module, node.level)] if node.module else []
            names += [(package + alias.name, node.level) for alias in node.names]
    return names


def _statements(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes below one, but for what only type checkers see."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and isinstance(child.test, ast.Name) and child.test.id == "TYPE_CHECKING":
            continue
        yield child
        yield from _statements(child)


@cache
def _behaviour(file: Path) -> bytes:
    """A file's syntax tree without docstrings and comments."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
                node.body = node.body[1:]
    return ast.dump(tree).encode()
