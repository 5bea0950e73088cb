"""A model's weights: read from a file, and as a short text."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from common.errors import UserError


def read_checkpoint(path: Path | str, **options: Any) -> Any:
    """The content of a torch file that holds nothing but tensors and plain values; nothing else is ever unpickled.

    Args:
        path: the file.
        options: of ``torch.load``.

    Raises:
        UserError: damaged, or it holds something else.
    """
    try:
        return torch.load(path, weights_only=True, **{"map_location": "cpu"} | options)
    except Exception as error:
        message = str(error)
        if found := re.search(r"GLOBAL ([\w.]+)", message):
            raise UserError(
                f"checkpoint '{path}' is refused: beside weights it holds '{found[1]}', and code that a stranger put into a "
                "file would run. Use one that zerolabel wrote, or weights as .safetensors."
            ) from error
        why = message.splitlines()[0][:100] if message and "weights_only" not in message else "it is no whole torch file"
        why = "it is no whole torch file" if "Weights only" in why else why
        raise UserError(f"checkpoint '{path}' cannot be read: {why}.") from error


def state_hash(state: Mapping[str, Any]) -> str:
    """12 hex digits over names, types, shapes and values of a model's weights."""
    digest = hashlib.sha256()
    for key in sorted(state):
        value = state[key].detach().cpu().contiguous()
        digest.update(f"{key}{value.dtype}{tuple(value.shape)}".encode())
        digest.update(value.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:12]


def weights_hash(model: torch.nn.Module) -> str:
    """Of a method's weights alone, without the counts of its metric."""
    return state_hash({name: value for name, value in model.state_dict().items() if not name.startswith("metric")})
