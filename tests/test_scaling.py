"""The arithmetic of ``benchmarks.scaling`` against numbers computed by hand, and one row of ``benchmarks.resources``."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import scaling, shipped
from benchmarks.cluster import BUCKET, HOP, Cluster, efficiency, state_bytes
from benchmarks.resources import row
from benchmarks.steps import COUNTED
from tests.test_configs import WHOLE

EXAMPLE = Cluster("example", peak=100e12, inside=200e9, between=50e9)


def test_a_ring_moves_almost_twice_the_bytes_at_the_narrowest_place() -> None:
    assert EXAMPLE.all_reduce_seconds(BUCKET, 8) == pytest.approx(2 * 7 / 8 * BUCKET / 200e9 + 6 * HOP)
    assert EXAMPLE.all_reduce_seconds(2e9, 64) == pytest.approx(0.07875 + 77 * 12 * HOP)  # 2e9 bytes are 77 buckets
    wide = Cluster("wide", peak=1.0, inside=200e9, between=400e9)
    assert wide.all_reduce_seconds(2e9, 64) == pytest.approx(0.0196875 + 77 * 12 * HOP)


def test_efficiency_without_and_with_overlap() -> None:
    assert EXAMPLE.compute_seconds(35e12) == pytest.approx(1.0)
    assert efficiency(0.9, 0.1) == pytest.approx(0.9)
    assert efficiency(0.9, 0.6, hidden=0.5) == pytest.approx(0.9)
    assert efficiency(0.9, 0.1, hidden=0.6) == 1


def test_accumulated_batches_exchange_once_and_hide_it_behind_the_last() -> None:
    compute, on_8, on_64, within, across = scaling.predicted(EXAMPLE, 35e9, 2, 250_000_000)  # 1 ms a batch; 1 GB, 39 buckets
    assert (compute, on_8, on_64) == ("2.00", "9.92", "41.72")
    assert within == f"{2 / 11.92:.0%} to {2 / (2 + 9.92 - 2 / 3):.0%}"
    assert across == "5% to 5%"


def test_the_state_is_sixteen_bytes_a_trained_weight_and_four_a_frozen_one() -> None:
    assert state_bytes(parameters=10, trained=4) == 4 * 16 + 6 * 4


@pytest.mark.parametrize("groups", [1, 4])
def test_a_convolution_costs_twice_as_much_backward_as_forward(groups: int) -> None:
    """Torch counts too much where there are groups: the depthwise convolutions of a SegFormer would cost more than the rest."""
    network = nn.Conv2d(8, 4, 3, padding=1, groups=groups)
    counter = FlopCounterMode(display=False, custom_mapping=COUNTED)
    with counter:
        network(torch.rand(2, 8, 5, 6).requires_grad_()).sum().backward()
    forward = 2 * (2 * 4 * 5 * 6) * (8 // groups * 9)
    assert counter.get_total_flops() == 3 * forward


def test_one_process_and_two_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    ms = {1: iter([100.0, 110.0, 90.0]), 2: iter([125.0, 110.0, 180.0])}
    monkeypatch.setattr(scaling, "measure", lambda _, processes: {"ms": (own := next(ms[processes])), "core_ms": own})
    assert scaling.shares(*scaling.in_turn("any.yaml")) == ["0.80 (0.50 to 1.00)"] * 2


def test_every_config_with_a_method_is_measured() -> None:
    assert shipped.configs() == list(map(str, WHOLE))
    assert not shipped.published("configs/ifseg/shapes.yaml")
    assert shipped.published("configs/zeroseg/coco.yaml")


def test_a_row_of_the_resources() -> None:
    name, parameters, trained, measured, rate, memory, _ = row("configs/oracle/linear_probe.yaml").strip("| ").split(" | ")
    assert (name, trained, measured) == ("oracle/linear_probe", "0.00", "step of 64")
    assert 1 < float(parameters) < 3
    assert 5 < float(rate) < 5000
    assert 20 < float(memory) < 2000
