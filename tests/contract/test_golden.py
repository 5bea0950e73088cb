"""Twenty steps of every learner: a refactor must not change what is learnt, bit for bit."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.contract.test_resume import LEARNERS, fit

STEPS = 20
GOLDEN = Path(__file__).with_name("golden_losses.json")  # ZEROLABEL_GOLDEN=write makes it anew


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Sums of other threads round differently."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def machine() -> str:
    """What bits depend on: the processor's kernels and torch."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    model = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), "unknown")
    return f"{model}, {torch.backends.cpu.get_cpu_capability()}, torch {torch.__version__}"


@pytest.mark.parametrize("name", LEARNERS)
def test_twenty_steps(name: str, tmp_path: Path) -> None:
    """Equal on the machine that wrote them; elsewhere rounding grows over the steps, and the first are compared."""
    golden, writes = json.loads(GOLDEN.read_text()), os.environ.get("ZEROLABEL_GOLDEN") == "write"
    if name not in golden and not writes:
        pytest.skip(f"no record of {name}; ZEROLABEL_GOLDEN=write python -m pytest tests/contract/test_golden.py makes one")
    _, losses = fit(tmp_path, LEARNERS[name], 0, steps=STEPS, batch=4)
    found = {str(step): logged for step, logged in losses.items()}
    assert len(found) == STEPS
    if writes:
        golden[name] = {"machine": machine(), "steps": found}
        GOLDEN.write_text(json.dumps(golden, indent=1, sort_keys=True) + "\n")
        return
    written = golden[name]
    if machine() == written["machine"]:
        assert found == written["steps"]
    else:
        for step in map(str, range(1, 6)):
            assert found[step] == pytest.approx(written["steps"][step], rel=1e-3, abs=1e-5)
