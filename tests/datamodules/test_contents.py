"""What pictures hold is what they are found by: in folders, lists, zips and tars, read once and remembered."""

import os
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.files import cache_folder
from datamodules.reading import contents as module
from datamodules.unlabeled import image_source


def make(folder: Path, seeds: list[int]) -> Path:
    """Pictures a.png, b.png, ... whose content follows from a seed."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, seed in zip("abcdefgh", seeds, strict=False):
        pixels = np.random.default_rng(seed).integers(0, 256, (8, 9, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{name}.png")
    return folder


def digests(images: Path) -> list[bytes]:
    return [row.tobytes() for row in image_source(str(images)).contents()]


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many files each call reads."""
    counted: list[int] = []
    run_all = module.run_all

    def counting(items: list, *rest: object, **options: object) -> list:
        counted.append(len(items))
        return run_all(items, *rest, **options)

    monkeypatch.setattr(module, "run_all", counting)
    return counted


def test_equal_names_in_two_folders_are_two_things(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for project, seeds in (("one", [1, 2]), ("two", [3, 2])):
        make(tmp_path / project / "pics", seeds)
        monkeypatch.chdir(tmp_path / project)
        found.append(digests(Path("pics")))  # the same name as typed
    assert found[0][0] != found[1][0]
    assert found[0][1] == found[1][1]  # the same picture


def test_files_are_read_once_and_replaced_ones_again(tmp_path: Path, reads: list[int]) -> None:
    folder = make(tmp_path / "pics", [1, 2, 3])
    first = digests(folder)
    assert digests(folder) == first
    make(folder, [1, 9])  # a and b are written anew, b with another content
    again = digests(folder)
    assert again[0] == first[0]
    assert again[1] != first[1]
    assert again[2] == first[2]
    assert reads == [3, 0, 2]


def test_a_picture_replaced_with_its_times_kept_is_found(tmp_path: Path) -> None:
    folder = make(tmp_path / "pics", [1])
    first, stat = digests(folder), (folder / "a.png").stat()
    make(folder, [2])
    os.utime(folder / "a.png", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert digests(folder) != first


def test_lists_and_archives(tmp_path: Path, reads: list[int]) -> None:
    folder = make(tmp_path / "pics", [1, 2])
    listed = tmp_path / "list.txt"
    listed.write_text("pics/b.png\npics/a.png\npics/absent.png\n")
    assert digests(listed)[:2] == digests(folder)[::-1]
    with tarfile.open(tmp_path / "t.tar", "w") as tar:
        tar.add(folder, "pics")
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as zipped:
        for file in sorted(folder.iterdir()):
            zipped.write(file, f"pics/{file.name}")
    reads.clear()
    assert sorted(digests(tmp_path / "t.tar")) == sorted(digests(folder))
    before = digests(tmp_path / "z.zip")
    assert reads == [2, 0]  # the zip's directory knows
    make(folder, [1, 7])
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as zipped:
        for file in sorted(folder.iterdir()):
            zipped.write(file, f"pics/{file.name}")
    after = digests(tmp_path / "z.zip")
    assert (after[0] == before[0], after[1] == before[1]) == (True, False)


def test_a_damaged_memory_is_read_anew(tmp_path: Path, reads: list[int], capsys: pytest.CaptureFixture[str]) -> None:
    folder = make(tmp_path / "pics", [1, 2])
    first = digests(folder)
    for file in cache_folder("contents").iterdir():
        data = bytearray(file.read_bytes())
        data[-1] ^= 1
        file.write_bytes(data)
    assert digests(folder) == first
    assert reads == [2, 2]
    assert "damaged" in capsys.readouterr().err
