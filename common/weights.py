"""A model's weights as a short text."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any


def state_hash(state: Mapping[str, Any]) -> str:
    """12 hex digits over names, types, shapes and values of a model's weights."""
    import torch  # here, so that help and mistakes answer without it

    digest = hashlib.sha256()
    for key in sorted(state):
        value = state[key].detach().cpu().contiguous()
        digest.update(f"{key}{value.dtype}{tuple(value.shape)}".encode())
        digest.update(value.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:12]
