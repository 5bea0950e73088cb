"""Checkpoints hold what was learnt: frozen weights that a model's constructor loads by itself are left out of them.

Loaded: they lie in a submodule that the model names in ``pretrained_parts``; frozen: no parameter of the module that holds
them is trained. A digest of what was left out is kept, so that a checkpoint is never used with other weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from common.errors import UserError
from common.weights import state_hash

LEFT_OUT = "left_out"  # a checkpoint's entry: names and digest
HALVES = (torch.float16, torch.bfloat16)


def restorable(model: Any) -> dict[str, Tensor]:
    """The weights that the constructor brings back, by name; none of a model in half precision, which would be others."""
    state, names = model.state_dict(), set()
    for part in model.pretrained_parts:
        module = model.get_submodule(part)
        trained = {name.rpartition(".")[0] for name, weight in module.named_parameters() if weight.requires_grad}
        names |= {f"{part}.{name}" for name in module.state_dict() if name.rpartition(".")[0] not in trained}
    found = {name: state[name] for name in sorted(names)}
    return {} if _halved(found) else found


def learnt_state(model: Any) -> dict[str, Tensor]:
    """A model's state without :func:`restorable`."""
    frozen = restorable(model)
    return {name: value for name, value in model.state_dict().items() if name not in frozen}


def load_learnt(model: Any, state: Mapping[str, Tensor]) -> None:
    """Loads what :func:`learnt_state` gave of an equal model, or a whole state, as the model reads it."""
    model.load_state_dict(model.as_read(restorable(model) | dict(state)))


def leave_out(model: Any, checkpoint: dict[str, Any]) -> None:
    """Takes the frozen weights out of a checkpoint that is about to be written."""
    frozen = restorable(model)
    if model.frozen_hash is None:  # a second for a ViT-B/16, and they do not change
        model.frozen_hash = state_hash(frozen)
    checkpoint[LEFT_OUT] = {"names": [*frozen], "digest": model.frozen_hash}
    checkpoint["state_dict"] = {name: value for name, value in checkpoint["state_dict"].items() if name not in frozen}


def fill_in(model: Any, checkpoint: dict[str, Any]) -> None:
    """Puts the model's own frozen weights into a checkpoint that was just read; one that holds everything stays as it is.

    Raises:
        UserError: the checkpoint was trained on others.
    """
    left_out = checkpoint.get(LEFT_OUT)
    if not left_out or not left_out["names"]:
        return
    state = model.state_dict()
    own = {name: state[name] for name in left_out["names"] if name in state}
    same = len(own) == len(left_out["names"]) and (_halved(own) or state_hash(own) == left_out["digest"])
    if not same:
        raise UserError(
            "the checkpoint is of another model: it was trained on other frozen weights than this one's "
            f"({', '.join(model.pretrained_parts) or 'none'}). Give the options that it was trained with."
        )
    checkpoint["state_dict"] = own | checkpoint["state_dict"]


def _halved(weights: Mapping[str, Tensor]) -> bool:
    return any(value.dtype in HALVES for value in weights.values())
