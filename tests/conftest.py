"""What all tests share: no network, a cache of their own, and a mark for tests that read ``../shared``."""

import os
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["WANDB_MODE"] = "disabled"
os.environ["OMP_NUM_THREADS"] = "1"  # tests run side by side, and the last bits follow the threads

import common.compat  # noqa: F401  (must come before what imports torchvision)

import hypothesis
import pytest
import torch

hypothesis.settings.register_profile("patient", deadline=None)  # a busy machine is no failure
hypothesis.settings.load_profile("patient")
ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared"
QUIET: dict[str, Any] = {  # options of a trainer that says and writes nothing
    "accelerator": "cpu",
    "logger": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "enable_checkpointing": False,
    "limit_val_batches": 0,
}
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="needs ../shared, the project's reference files")


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    os.environ["ZEROLABEL_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(autouse=True)
def from_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    os.environ.pop("PL_GLOBAL_SEED", None)  # of a run in an earlier test of this process
    torch.manual_seed(0)
