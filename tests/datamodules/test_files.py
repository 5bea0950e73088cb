"""Folders and archives give the same bytes, in forked workers too."""

import io
import os
import pickle
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from torch.utils.data import DataLoader, Dataset

from common.errors import UserError
from datamodules.reading.archives import Archive, PositionedFile, find_files, open_archive
from datamodules.reading.files import Files

CONTENT = {f"below/{i:03d}.bin": os.urandom(1000 + i) for i in range(50)} | {"top.txt": b"hello"}


def folder(root: Path) -> Files:
    for name, data in CONTENT.items():
        (root / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "data" / name).write_bytes(data)
    return Files(str(root / "data"))


def zipped(root: Path) -> Files:
    with zipfile.ZipFile(root / "data.zip", "w") as file:
        for i, (name, data) in enumerate(CONTENT.items()):
            file.writestr(f"data/{name}", data, zipfile.ZIP_DEFLATED if i % 2 else zipfile.ZIP_STORED)
    return Archive(open_archive(root / "data.zip"), "data")


def zip_in_zip(root: Path) -> Files:
    zipped(root)
    with zipfile.ZipFile(root / "outer.zip", "w") as file:
        file.write(root / "data.zip", "deep/data.zip")
    return Archive(open_archive(root / "outer.zip", "deep/data.zip"), "data")


def tarred(root: Path) -> Files:
    with tarfile.open(root / "data.tar", "w") as file:
        for name, data in CONTENT.items():
            member = tarfile.TarInfo(f"./data/{name}")
            member.size = len(data)
            file.addfile(member, io.BytesIO(data))
    return Archive(open_archive(root / "data.tar"), "data")


KINDS = [folder, zipped, zip_in_zip, tarred]


class Reader(Dataset[bool]):
    def __init__(self, files: Files) -> None:
        self.files = files

    def __len__(self) -> int:
        return 50

    def __getitem__(self, index: int) -> bool:
        name = f"below/{index:03d}.bin"
        return all(self.files.read(name) == CONTENT[name] for _ in range(20))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_workers_read_the_same_bytes(kind: Callable[[Path], Files], start: str, tmp_path: Path) -> None:
    files = kind(tmp_path)
    assert files.names("below") == sorted(Path(name).name for name in CONTENT if "/" in name)
    assert files.names() == ["top.txt"]
    assert files.names("nowhere") == []
    assert files.has("below")
    assert files.has("")
    assert not files.has("nowhere")
    if start == "spawn":  # what spawned workers get
        files = pickle.loads(pickle.dumps(files))
        assert all(Reader(files)[i] for i in range(50))
    else:
        assert all(all(batch) for batch in DataLoader(Reader(files), batch_size=1, num_workers=3))


@pytest.mark.parametrize("kind", KINDS)
def test_an_absent_file_is_named(kind: Callable[[Path], Files], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data(\.\w+)?[:/](data/)?below/none\.bin' does not exist"):
        kind(tmp_path).read("below/none.bin")


def test_broken_archives_are_named(tmp_path: Path) -> None:
    zipped(tmp_path)
    tarred(tmp_path)
    for name in ("data.zip", "data.tar"):
        whole = (tmp_path / name).read_bytes()
        (tmp_path / f"cut_{name}").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"cut_data\.zip' cannot be read: .* Is the download complete\?"):
        open_archive(tmp_path / "cut_data.zip")
    with pytest.raises(UserError, match=r"cut_data\.tar.* (cannot be read|cut off)"):
        Archive(open_archive(tmp_path / "cut_data.tar"), "data").read("below/049.bin")
    with tarfile.open(tmp_path / "data.tar.gz", "w:gz") as file:
        file.add(tmp_path / "data.zip", "x")
    with pytest.raises(UserError, match=r"compressed as a whole. Unpack it once: tar xf .*data\.tar\.gz"):
        open_archive(tmp_path / "data.tar.gz")
    with pytest.raises(UserError, match="does not exist"):
        open_archive(tmp_path / "none.tar")


def test_a_tar_that_ends_inside_a_file_names_the_file(tmp_path: Path) -> None:
    tarred(tmp_path)
    whole = (tmp_path / "data.tar").read_bytes()
    (tmp_path / "cut.tar").write_bytes(whole[: whole.index(CONTENT["below/049.bin"]) + 300])
    with pytest.raises(UserError, match=r"cut\.tar' cannot be read: .* Is the download complete\?"):
        open_archive(tmp_path / "cut.tar")
    archive = open_archive(tmp_path / "data.tar")
    os.truncate(tmp_path / "data.tar", whole.index(CONTENT["below/049.bin"]) + 300)
    with pytest.raises(UserError, match=r"data/below/049\.bin' is cut off; is the download of"):
        archive.read("data/below/049.bin")


def test_a_flipped_byte_in_a_zip_is_found(tmp_path: Path) -> None:
    files = zipped(tmp_path)
    data = bytearray((tmp_path / "data.zip").read_bytes())
    data[data.index(CONTENT["below/000.bin"]) + 500] ^= 1
    (tmp_path / "data.zip").write_bytes(data)
    with pytest.raises(UserError, match=r"below/000\.bin' cannot be read: Bad CRC-32"):
        files.read("below/000.bin")


def test_an_archive_that_changes_is_indexed_again(tmp_path: Path) -> None:
    tarred(tmp_path)
    assert len(open_archive(tmp_path / "data.tar").members) == 51
    with tarfile.open(tmp_path / "data.tar", "w") as file:
        file.addfile(tarfile.TarInfo("one"), io.BytesIO())
    assert open_archive(tmp_path / "data.tar").members == ["one"]


def test_a_positioned_file_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(bytes(range(100)))
    file = PositionedFile(str(tmp_path / "f"))
    assert file.seek(-10, os.SEEK_END) == 90
    assert file.read(4) == bytes(range(90, 94))
    assert file.tell() == 94
    assert file.seek(-4, os.SEEK_CUR) == 90
    assert file.read() == bytes(range(90, 100))
    assert file.read() == b""


def test_places_are_tried_in_order(tmp_path: Path) -> None:
    places = ["data", "data.tar:data", "outer.zip:deep/data.zip:data"]
    with pytest.raises(UserError, match=r"does not hold data/below or data\.tar:data/below .* Published at https://here"):
        find_files(tmp_path, places, "below", "https://here")
    zip_in_zip(tmp_path)
    assert find_files(tmp_path, places, "below", "").where.endswith("outer.zip:deep/data.zip:data")
    tarred(tmp_path)
    assert find_files(tmp_path, places, "below", "").where.endswith("data.tar:data")
    assert find_files(tmp_path / "outer.zip", places, "below", "").where.endswith("outer.zip:deep/data.zip:data")
    folder(tmp_path)
    assert find_files(tmp_path, places, "below", "").where == str(tmp_path / "data")
    with pytest.raises(UserError, match=r"/nowhere' does not exist\. Set --data\.root to where data lies"):
        find_files(tmp_path / "nowhere", places, "below", "")
