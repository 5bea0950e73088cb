"""MaskCLIP's value path in vision transformers of libraries: for a while, a block's tokens attend each to itself alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

RULE = "maskclip"  # of :mod:`backbones.attention`


@contextmanager
def value_path(attention: nn.Module) -> Iterator[None]:
    """While this lasts, an attention module of timm or transformers puts out v in the place of softmax(q k^T / sqrt(d)) v.

    The rest of the block stays, as in the official code of MaskCLIP.
    """

    def own_value(module: Any, args: tuple[Any, ...], options: dict[str, Any], output: Any) -> Any:
        x = args[0] if args else options["hidden_states"]
        found = _projected(module, _value(module, x))
        return (found, *output[1:]) if isinstance(output, tuple) else found

    handle = attention.register_forward_hook(own_value, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def has_value_path(attention: Any) -> bool:
    """Whether its parts are known here: one value for each head, a linear projection after them."""
    one_each = getattr(attention, "num_kv_groups", 1) == 1 and getattr(attention, "gate", None) is None
    values = any(isinstance(getattr(attention, name, None), nn.Linear) for name in ("v_proj", "qkv"))
    return one_each and values and _projection(attention) is not None


def _value(attention: Any, x: Tensor) -> Tensor:
    if isinstance(getattr(attention, "v_proj", None), nn.Linear):
        found: Tensor = attention.v_proj(x)
        return found
    weight, bias = attention.qkv.weight.chunk(3)[2], attention.qkv.bias
    v_bias = getattr(attention, "v_bias", None)  # EVA's stands beside the layer
    return F.linear(x, weight, v_bias if bias is None else bias.chunk(3)[2])


def _projected(attention: Any, value: Tensor) -> Tensor:
    if isinstance(norm := getattr(attention, "norm", None), nn.Module):  # timm's, of what the heads put out
        value = norm(value)
    projection = _projection(attention)
    assert projection is not None
    found: Tensor = projection(value)
    return found


def _projection(attention: Any) -> nn.Linear | None:
    found = [getattr(attention, name, None) for name in ("out_proj", "o_proj", "proj")]
    return next((layer for layer in found if isinstance(layer, nn.Linear)), None)
