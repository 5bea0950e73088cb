"""Turns a published fairseq checkpoint into safetensors, once: ``python -m backbones.ofa.convert ofa.pt ofa.safetensors``.

Such a file holds a pickled configuration beside its weights, which ``weights_only`` refuses. Here everything that is not a
tensor becomes an inert object: no class or function of the file is imported or called.
"""

from __future__ import annotations

import collections
import pickle
import sys
import types
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from common.errors import UserError, in_one_line
from common.files import atomic_path

ALLOWED = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): torch._utils._rebuild_tensor_v2,
    ("torch._utils", "_rebuild_parameter"): torch._utils._rebuild_parameter,
}


class Inert:
    """Stands for an object of a class that is not wanted; takes any arguments, state and items, and does nothing."""

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def __setstate__(self, state: Any) -> None: ...

    def __setitem__(self, key: Any, value: Any) -> None: ...

    def append(self, item: Any) -> None: ...

    def extend(self, items: Any) -> None: ...


class InertUnpickler(pickle.Unpickler):
    """Knows tensors and their storages; anything else is :class:`Inert`."""

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name.endswith("Storage") and name.isidentifier():
            return getattr(torch, name, Inert)
        return ALLOWED.get((module, name), type(name, (Inert,), {}))


def read_fairseq(path: Path) -> dict[str, torch.Tensor]:
    """The tensors under ``model`` of a fairseq checkpoint.

    Raises:
        UserError: missing, broken, or without weights.
    """
    if not path.is_file():
        raise UserError(f"checkpoint '{path}' does not exist.")
    reader = types.SimpleNamespace(
        Unpickler=InertUnpickler, load=lambda file, **_: InertUnpickler(file).load(), __name__="inert"
    )
    try:
        content = torch.load(path, map_location="cpu", pickle_module=reader, weights_only=False)  # inert, see above
        weights = {name: value for name, value in content["model"].items() if isinstance(value, torch.Tensor)}
    except Exception as error:
        raise UserError(f"checkpoint '{path}' cannot be read: {in_one_line(error)}") from error
    if not weights:
        raise UserError(f"checkpoint '{path}' holds no weights under 'model'.")
    return weights


def main(arguments: list[str]) -> int:
    if len(arguments) != 2:
        print(__doc__)
        return 2
    try:
        weights = read_fairseq(Path(arguments[0]))
        with atomic_path(arguments[1]) as path:
            save_file({name: value.clone().contiguous() for name, value in weights.items()}, path)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{len(weights)} tensors written to {arguments[1]}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
