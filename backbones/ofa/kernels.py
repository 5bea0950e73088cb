"""softmax(scale q kT + bias) v with a bias that may be trained: torch's kernels, and which of them is fastest here.

Shapes: q (B, H, P, hd), k and v (B, H, S, hd), bias (1 or B, H, P, S), -inf where not to look; -> (B, H, P, hd).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Kernel = Callable[[Tensor, Tensor, Tensor, Tensor, float], Tensor]

WORTH_MEASURING = 2**24  # scores: FlexAttention is compiled first, which takes longer than all steps of a small training


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, scale: float) -> Tensor:
    """By the fastest kernel: on a CPU a rule found by measurement, in large trainings on a GPU the first step measures."""
    trained = bias.requires_grad and torch.is_grad_enabled()
    if trained and q.device.type == "cpu" and q.dtype == torch.float32:
        return picture_by_picture(q, k, v, bias, scale)
    if trained and q.device.type != "cpu" and q.shape[:3].numel() * k.shape[2] >= WORTH_MEASURING:
        return KERNELS[_remembered(q, k, v, bias, scale)](q, k, v, bias, scale)
    return fused(q, k, v, bias, scale)


def fused(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, scale: float) -> Tensor:
    """Torch's own choice for the device; it falls back to plain products where none of its fused kernels can."""
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=scale)


def picture_by_picture(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, scale: float) -> Tensor:
    """For CPUs, where torch has no fused kernel that gives the bias a gradient.

    What it has instead looks for rows that see nothing, which there are none of here: four passes over (B, H, P, S) that
    this leaves out.
    """
    biases = bias.unbind() if len(bias) > 1 else [bias.squeeze(0)] * len(q)
    pictures = zip(q, k.transpose(2, 3), v, biases, strict=True)
    return torch.stack([torch.baddbmm(on, of, to, alpha=scale).softmax(-1) @ held for of, to, held, on in pictures])


def flex(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, scale: float) -> Tensor:
    """FlexAttention, compiled for these shapes; on a CPU it has no backward pass (torch 2.13)."""
    for_all = len(bias) == 1

    def biased(score: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return score + bias[0 if for_all else b, h, i, j]

    out: Tensor = _compiled_flex()(q, k, v, score_mod=biased, scale=scale)
    return out


@cache
def _compiled_flex() -> Any:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=False)


KERNELS: dict[str, Kernel] = {"fused": fused, "flex": flex}
_fastest: dict[tuple[Any, ...], str] = {}


def _remembered(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, scale: float) -> str:
    key = (q.device, q.dtype, q.shape, k.shape, bias.shape)
    if key not in _fastest:
        _fastest[key] = fastest(KERNELS, q, k, v, bias, scale)
    return _fastest[key]


def fastest(kernels: Mapping[str, Kernel], q: Tensor, k: Tensor, v: Tensor, bias: Tensor, scale: float) -> str:
    """The name of the kernel whose forward and backward pass take least, of those that agree with the first one.

    One that fails, or whose output or gradients are others, is left out, and a line says so.
    """
    seconds: dict[str, float] = {}
    expected: list[Tensor] = []
    for name, kernel in kernels.items():
        try:
            took, found = _measured(kernel, q, k, v, bias, scale)
        except Exception as error:  # whatever a compiler or a driver raises
            _leave_out(name, str(error).partition("\n")[0][:120] or type(error).__name__)
            continue
        expected = expected or found
        if all(map(_agree, found, expected)):
            seconds[name] = took
        else:
            _leave_out(name, "its output or gradients are others.")
    return min(seconds, key=seconds.__getitem__, default=next(iter(kernels)))


@torch.enable_grad()
def _measured(kernel: Kernel, q: Tensor, k: Tensor, v: Tensor, bias: Tensor, scale: float) -> tuple[float, list[Tensor]]:
    """Median seconds of a step, and its output and gradients."""
    from torch.utils.benchmark import Timer  # 90 ms that no other machine need wait for

    inputs = [tensor.detach().requires_grad_() for tensor in (q, k, v, bias)]
    q, k, v, bias = inputs

    def step() -> list[Tensor]:
        out = kernel(q, k, v, bias, scale)
        return [out, *torch.autograd.grad(out, inputs, out.detach())]

    found = step()
    return Timer("step()", globals={"step": step}).blocked_autorange(min_run_time=0.2).median, found


def _agree(found: Tensor, expected: Tensor) -> bool:
    """Up to rounding, relative to the largest number."""
    tolerance = max(1e-4, 8 * torch.finfo(expected.dtype).eps)
    return bool((found - expected).abs().max() <= tolerance * expected.abs().max())


def _leave_out(name: str, why: str) -> None:
    print(f"note: attention by '{name}' is left out: {why}", flush=True)
