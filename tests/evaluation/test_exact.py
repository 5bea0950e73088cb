"""Exact evaluation: 1, 2 or 3 processes, any number of pictures, in test and inside fit: the same integers."""

import json
from pathlib import Path
from typing import Any
from unittest import mock

import lightning
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from common.distributed import is_padding_sample
from datamodules import DATAMODULES
from datamodules.sampling import EpochSampler, ExactSampler, epoch_order
from methods import METHODS
from tests.contract.ddp_worker import CASES
from tests.contract.fit_worker import METHODS_TRIED
from tests.data import make_pictures
from tests.processes import run


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Any]:
    """By number of processes."""
    folder = tmp_path_factory.mktemp("exact")
    make_pictures(folder / "pictures")
    (folder / "pictures" / "broken.jpg").write_text("no picture")
    found = {}
    for processes in (1, 2, 3):
        file = folder / f"{processes}.json"
        run("-m", "tests.contract.ddp_worker", str(processes), str(file), ranks=processes)
        found[processes] = json.loads(file.read_text())
        found[processes]["predictions"] = json.loads((folder / str(processes) / "predictions.json").read_text())
    return found


@pytest.mark.parametrize("case", CASES)
def test_any_number_of_processes_counts_the_same(case: str, results: dict[int, Any]) -> None:
    stage, pictures = CASES[case]
    assert results[1][case]["pictures"] == list(range(pictures))
    assert sum(map(sum, results[1][case]["matrix"])) > 1000 * pictures
    assert sum(results[1][case]["outcomes"]) == sum(map(sum, results[1][case]["matrix"]))
    assert results[1][case]["judged"] == pictures
    assert results[1][case]["steps"] == (4 if stage == "fit" else 0)
    assert results[2][case] == results[1][case]
    assert results[3][case] == results[1][case]


def test_predictions_of_all_processes_are_in_one_file(results: dict[int, Any]) -> None:
    alone = results[1]["predictions"]
    assert [row["picture"] for row in alone["pictures"]] == ["a.png", "below/grey.jpg", "cmyk.jpg"]
    assert [row["picture"] for row in alone["failed"]] == ["broken.jpg"]
    assert results[2]["predictions"] == results[3]["predictions"] == alone


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Any]:
    """By number of processes: of each method, tensors before and after training."""
    folder = tmp_path_factory.mktemp("trained")
    found = {}
    for processes in (1, 2):
        file = folder / f"{processes}.pt"
        cache = folder / f"cache{processes}"
        run("-m", "tests.contract.fit_worker", str(processes), str(file), str(cache), ranks=processes)
        found[processes] = torch.load(file, weights_only=True)
    return found


@pytest.mark.parametrize("name", METHODS_TRIED)
def test_two_processes_train_as_one(name: str, trained: dict[int, Any]) -> None:
    """Of what three steps changed, less than one per cent depends on how many processes shared the batch."""
    one, two = trained[1][name], trained[2][name]
    assert all(torch.equal(before, two[key][0]) for key, (before, _) in one.items())
    moved = torch.cat([(after - before).flatten() for before, after in one.values()]).norm()
    differs = torch.cat([(after - two[key][1]).flatten() for key, (_, after) in one.items()]).norm()
    assert moved > 1e-3
    assert differs < 0.01 * moved


@given(count=st.integers(1, 40), world=st.integers(1, 9))
def test_each_picture_once_and_all_ranks_in_step(count: int, world: int) -> None:
    dealt = [list(ExactSampler(range(count), rank, world)) for rank in range(world)]
    assert len({len(indices) for indices in dealt}) == 1
    counted = []
    for rank, indices in enumerate(dealt):
        with mock.patch("common.distributed.rank_and_world", return_value=(rank, world)):
            counted += [i for i in indices if not is_padding_sample(i)]
    assert sorted(counted) == list(range(count))
    assert all(0 <= i < count for indices in dealt for i in indices)


def test_a_picture_counted_twice_is_an_error(tmp_path: Path) -> None:
    data = DATAMODULES["Shapes"](pictures=2, num_workers=0)
    twice: Any = DataLoader(data.benchmark("test"), batch_size=2, sampler=[0, 0], collate_fn=data.test_dataloader().collate_fn)
    trainer = lightning.Trainer(default_root_dir=tmp_path, accelerator="cpu", logger=False, enable_progress_bar=False)
    with pytest.raises(RuntimeError, match="2 images were counted, 1 different, of 2"):
        trainer.test(METHODS["TrainingFree"]("sclip"), _With(data, twice), verbose=False)


class _With(lightning.LightningDataModule):
    """Another test loader for the same vocabulary."""

    def __init__(self, data: Any, loader: Any) -> None:
        super().__init__()
        self.vocabulary, self.test_dataloader = data.vocabulary, lambda: loader


def test_an_epoch_is_a_permutation_of_its_own(tmp_path: Path) -> None:
    first, again, second, other = (epoch_order(50, seed, epoch) for seed, epoch in [(0, 0), (0, 0), (0, 1), (1, 0)])
    assert sorted(first) == list(range(50))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, other)


@given(st.lists(st.integers(0, 9), min_size=1, max_size=20), st.integers(1, 5), st.integers(0, 3))
def test_shards_are_shuffled_and_kept_together(sizes: list[int], together: int, epoch: int) -> None:
    shards = np.array(sizes)
    order = epoch_order(int(shards.sum()), 0, epoch, shards, together)
    assert sorted(order.tolist()) == list(range(shards.sum()))
    shard_of = np.repeat(np.arange(len(shards)), shards)[order]
    runs = [key for i, key in enumerate(shard_of.tolist()) if i == 0 or key != shard_of[i - 1]]
    if together == 1:  # shard after shard
        assert len(runs) == len(set(runs))


def test_ranks_share_an_epoch_without_overlap(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    for rank in range(3):
        monkeypatch.setattr("datamodules.sampling.rank_and_world", lambda rank=rank: (rank, 3))
        sampler = EpochSampler(range(11), seed=4)
        sampler.set_epoch(2)
        assert len(sampler) == 3
        seen += list(sampler)
    assert len(set(seen)) == 9
    assert {epoch for epoch, _ in seen} == {2}
