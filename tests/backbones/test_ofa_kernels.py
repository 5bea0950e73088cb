"""Attention with a trained bias: each kernel against the formula, and the choice among them."""

import time
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.attention.flex_attention import flex_attention

from backbones.ofa import kernels
from backbones.ofa.kernels import attend, fastest, flex, fused, picture_by_picture

SCALE = 0.3
TIGHT: dict[str, Any] = {"atol": 1e-5, "rtol": 1e-4}


Inputs = tuple[Tensor, Tensor, Tensor, Tensor]


def tensors(maps: int, device: str = "cpu") -> Inputs:
    """q, k, v and a bias for all or for each of the maps; the last two keys are not looked at."""
    torch.manual_seed(0)
    q, k, v = (torch.randn(3, 2, length, 8) for length in (5, 7, 7))
    bias = torch.randn(maps, 2, 5, 7)
    bias[..., 5:] = -torch.inf
    q, k, v, bias = (tensor.to(device).requires_grad_() for tensor in (q, k, v, bias))
    return q, k, v, bias


def formula(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, scale: float) -> Tensor:
    return torch.einsum("bhps,bhsd->bhpd", (scale * torch.einsum("bhpd,bhsd->bhps", q, k) + bias).softmax(-1), v)


def assert_same(kernel: kernels.Kernel, inputs: Inputs) -> None:
    found, expected = kernel(*inputs, SCALE), formula(*inputs, SCALE)
    torch.testing.assert_close(found, expected, **TIGHT)
    gradients = (torch.autograd.grad(out.square().sum(), inputs) for out in (found, expected))
    for ours, plain in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, plain, **TIGHT)


@pytest.mark.parametrize("maps", [1, 3])
def test_kernels_are_the_formula(maps: int) -> None:
    for kernel in (attend, fused, picture_by_picture):
        assert_same(kernel, tensors(maps))


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("maps", [1, 3])
def test_flex_attention_is_the_formula(maps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it computes without a compiler, which takes half a minute."""
    monkeypatch.setattr(kernels, "_compiled_flex", lambda: flex_attention)
    q, k, v, bias = (tensor.detach() for tensor in tensors(maps))
    torch.testing.assert_close(flex(q, k, v, bias, SCALE), formula(q, k, v, bias, SCALE), **TIGHT)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no GPU")
@pytest.mark.parametrize("maps", [1, 3])
def test_a_gpu_measures_and_stays_with_the_formula(maps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "WORTH_MEASURING", 1)
    for kernel in (attend, fused, flex):
        assert_same(kernel, tensors(maps, "cuda"))


def test_the_fastest_that_agrees_is_chosen(capsys: pytest.CaptureFixture[str]) -> None:
    def slow(*arguments: Any) -> Tensor:
        time.sleep(0.02)
        return formula(*arguments)

    def wrong(*arguments: Any) -> Tensor:
        return formula(*arguments) * 1.001

    def wrong_gradient(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, scale: float) -> Tensor:
        return formula(q, k, v, bias.detach(), scale) + 0 * bias.nan_to_num(neginf=0).sum()

    def fails(*arguments: Any) -> Tensor:
        raise RuntimeError("no compiler\nand more")

    def says_nothing(*arguments: Any) -> Tensor:
        raise AssertionError

    inputs = tensors(1)
    tried = {"slow": slow, "quick": formula, "wrong": wrong, "wrong gradient": wrong_gradient, "fails": fails}
    assert fastest(tried, *inputs, SCALE) == "quick"
    assert capsys.readouterr().out.splitlines() == [
        "note: attention by 'wrong' is left out: its output or gradients are others.",
        "note: attention by 'wrong gradient' is left out: its output or gradients are others.",
        "note: attention by 'fails' is left out: no compiler",
    ]
    assert fastest({"fails": fails, "none": fails}, *inputs, SCALE) == "fails"  # the first falls back itself
    assert all(tensor.grad is None for tensor in inputs)
    capsys.readouterr()
    assert fastest({"says nothing": says_nothing, "quick": formula}, *inputs, SCALE) == "quick"
    assert capsys.readouterr().out == "note: attention by 'says nothing' is left out: AssertionError\n"


@pytest.mark.skipif(torch.cuda.is_available(), reason="of a machine without a GPU")
def test_what_a_device_cannot_do_is_left_out() -> None:
    assert fastest(kernels.KERNELS, *tensors(3), SCALE) == "fused"


def test_a_choice_is_made_once_for_each_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[torch.Size] = []
    monkeypatch.setattr(kernels, "_fastest", {})
    monkeypatch.setattr(kernels, "fastest", lambda _, *tensors: asked.append(tensors[3].shape) or "fused")
    for maps in (1, 3, 1, 3):
        assert kernels._remembered(*tensors(maps), SCALE) == "fused"
    assert [shape[0] for shape in asked] == [1, 3]
