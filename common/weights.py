"""A model's weights as a short text."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import torch


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
