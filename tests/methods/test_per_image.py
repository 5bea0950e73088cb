"""What is made of every training image once: by content, resumable, mended, shared by projects without mixing them up."""

from functools import partial
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import pytest
import torch
from PIL import Image

from common.errors import UserError
from common.kept import Kept
from common.records import DIGEST
from datamodules import DATAMODULES
from methods import FreeSeg, ZeroSeg
from methods.per_image import PerImage
from tests.conftest import QUIET


class Numbers:
    """Images that hold a number; their content is its digest."""

    def __init__(self, numbers: list[int]) -> None:
        self.numbers, self.read = numbers, 0

    def __len__(self) -> int:
        return len(self.numbers)

    def contents(self) -> np.ndarray:
        return np.array([[number] * DIGEST for number in self.numbers], np.uint8).reshape(-1, DIGEST)

    def rendering(self) -> dict[str, Any]:
        return {"size": 2}

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        self.read += 1
        return {"image": torch.full((3, 2, 2), self.numbers[key[1]], dtype=torch.uint8)}


def filled(folder: Path, numbers: list[int], teacher: str = "a", fail_after: int = 10**9) -> tuple[PerImage, Numbers]:
    images, seen = Numbers(numbers), [0]

    def make(batch: torch.Tensor) -> list[bytes]:
        seen[0] += len(batch)
        if seen[0] > fail_after:
            raise KeyboardInterrupt
        return [f"{teacher}{image[0, 0, 0]}".encode() for image in batch]

    kept = PerImage("views", str(folder), {"teacher": teacher}, images, "--model.cache")
    assert kept.fill(make, 0, 10)
    return kept, images


def read(kept: PerImage, count: int) -> list[bytes]:
    return kept.read(range(count), lambda missing: [f"again {i}".encode() for i in missing])


def test_contents_are_found_whatever_the_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("common.records.SHARD", 3)
    kept, images = filled(tmp_path, [*range(8)])
    assert read(kept, 8) == [f"a{i}".encode() for i in range(8)]
    assert images.read == 8
    fewer = [7, 6, 4, 3, 2, 1, 77]  # some removed, another order, one more
    kept, images = filled(tmp_path, fewer)
    assert read(kept, 7) == [f"a{i}".encode() for i in fewer]
    assert images.read == 1
    kept, images = filled(tmp_path, [1, 2], "b")  # another teacher beside the first
    assert read(kept, 2) == [b"b1", b"b2"]


def test_a_killed_filling_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("common.records.SHARD", 3)
    with pytest.raises(KeyboardInterrupt):
        filled(tmp_path, [*range(8)], fail_after=6)
    kept, images = filled(tmp_path, [*range(8)])
    assert images.read == 2
    assert read(kept, 8) == [f"a{i}".encode() for i in range(8)]


def test_damage_is_made_again_and_a_full_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(tmp_path, [1, 2])
    (shard,) = tmp_path.glob("*.safetensors")
    whole = shard.read_bytes()
    shard.write_bytes(whole.replace(b"a1a2", b"a1a3"))
    kept, images = filled(tmp_path, [1, 2])
    assert images.read == 0  # nothing is read before it is needed
    assert read(kept, 2) == [b"a1", b"again 1"]
    assert filled(tmp_path, [1, 2])[1].read == 2
    with monkeypatch.context() as full:
        full.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 10})())
        with pytest.raises(UserError, match=r"the views need 0\.0 GB, .* --model\.cache null"):
            filled(tmp_path, [3, 4])


def test_an_unwritable_cache_is_no_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ZEROLABEL_CACHE", str(tmp_path / "file" / "cache"))
    for model in (ZeroSeg(grids=[1, 2]), FreeSeg()):
        lightning.Trainer(default_root_dir=tmp_path, max_steps=1, **QUIET).fit(model, shapes())
    assert "cannot be kept" in capsys.readouterr().err


@pytest.mark.parametrize("method", [partial(ZeroSeg, grids=[1, 2]), FreeSeg])
def test_what_a_full_disk_did_not_keep_is_kept_later(
    method: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ZEROLABEL_CACHE", str(tmp_path / "cache"))

    def weights() -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        model = method()
        lightning.Trainer(default_root_dir=tmp_path, max_steps=1, **QUIET).fit(model, shapes())
        return model.state_dict()  # type: ignore[no-any-return]

    write = Kept.write
    with monkeypatch.context() as full:
        full.setattr(Kept, "write", lambda kept, key, *rest: kept.kind not in ("views", "masks") and write(kept, key, *rest))
        anew = weights()
    for _ in range(2):  # kept, then read
        assert all(torch.allclose(value, anew[name], atol=1e-3) for name, value in weights().items())
    assert "Lower foreground" not in capsys.readouterr().err


def shapes() -> Any:
    options: dict[str, Any] = {"vocabulary": "shapes16", "train": "pictures", "train_pictures": 8, "train_batch_size": 4}
    return DATAMODULES["Shapes"](**options, num_workers=0)


def project(folder: Path, seed: int) -> Path:
    """Four pictures under names that every project uses."""
    (folder / "pics").mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    for i in range(4):
        Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(folder / "pics" / f"{i}.png")
    return folder


def trained(monkeypatch: pytest.MonkeyPatch, folder: Path, method: Any, **options: Any) -> Any:
    """After one step on ``pics``, as typed."""
    monkeypatch.chdir(folder)
    torch.manual_seed(0)
    data = DATAMODULES["UnlabeledImages"]("pics", size=64, train_batch_size=4, classes="shapes16", num_workers=0)
    model = method(**options)
    lightning.Trainer(default_root_dir=folder, max_steps=1, **QUIET).fit(model, data)
    return model


@pytest.mark.parametrize(("method", "option"), [(ZeroSeg, "cache"), (FreeSeg, "masks")])
def test_two_projects_with_equal_names_share_nothing(
    method: Any, option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does a project whose pictures were replaced: trained as with nothing kept at all."""
    monkeypatch.setenv("ZEROLABEL_CACHE", str(tmp_path / "cache"))
    for folder, seed in (("one", 1), ("two", 2), ("one", 3)):
        place = project(tmp_path / folder, seed)
        kept = trained(monkeypatch, place, method).state_dict()
        anew = trained(monkeypatch, place, method, **{option: None}).state_dict()
        for name, value in kept.items():
            torch.testing.assert_close(value, anew[name], atol=2e-3, rtol=2e-2, msg=f"{folder} {seed} {name}")
