"""The store: what is read is what was written, or nothing; whatever happens to the files."""

import json
import random
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from common.errors import UserError
from common.kept import Kept, key_of
from common.records import DIGEST, Records, rows_of, shards_of

TENSORS = {"a": torch.arange(6.0).view(2, 3), "b": torch.tensor([1, 2], dtype=torch.uint8), "c": torch.rand(2).bfloat16()}
NOTE = {"miou": 22.07, "names": ["cat", "dog"], "none": None}


def flipped(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def test_what_is_kept_comes_back(tmp_path: Path) -> None:
    store = Kept("things", tmp_path)
    assert store.read("k") is None
    assert store.write("k", TENSORS, NOTE)
    entry = store.read("k")
    assert entry is not None
    assert entry.note == NOTE
    assert set(entry.tensors) == set(TENSORS)
    assert all(torch.equal(entry.tensors[name], value) for name, value in TENSORS.items())
    assert list(store.keys()) == ["k"]
    assert torch.equal(store.tensors("k", lambda: {"a": torch.zeros(1)})["a"], TENSORS["a"])
    store.remove("k")
    assert torch.equal(store.tensors("k", lambda: {"a": torch.zeros(1)})["a"], torch.zeros(1))


def test_every_flipped_bit_is_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Or it changes nothing, such as a space between two names of the header."""
    store = Kept("things", tmp_path)
    store.write("k", TENSORS, NOTE)
    whole, before = store.path("k").read_bytes(), store.read("k")
    assert before is not None
    for bit in range(8 * len(whole)):
        store.path("k").write_bytes(flipped(whole, bit))
        found = store.read("k")
        if found is not None:
            assert found.note == before.note
            assert all(torch.equal(found.tensors[name], value) for name, value in before.tensors.items())
        else:
            assert "things) is damaged" in capsys.readouterr().err
    for length in range(0, len(whole), 7):
        store.path("k").write_bytes(whole[:length])
        assert store.read("k") is None


def test_an_entry_under_anothers_name_is_found_out(tmp_path: Path) -> None:
    store = Kept("things", tmp_path)
    store.write("k", TENSORS, NOTE)
    store.path("k").rename(store.path("other"))
    assert store.read("other") is None


def test_unwritable_is_a_warning_once_and_an_error_for_output(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    store = Kept("things", tmp_path / "file" / "inside")
    assert not store.writable()
    assert not store.write("k", TENSORS)
    assert store.tensors("k", lambda: {"a": torch.ones(1)})["a"] == 1
    said = capsys.readouterr().err
    assert said.count("things cannot be kept in") == 1
    assert "ZEROLABEL_CACHE" in said
    with pytest.raises(UserError, match="cannot write"):
        Kept("things", tmp_path / "file" / "inside", required=True).write("k", TENSORS)


def test_many_write_and_read_at_once(tmp_path: Path) -> None:
    store, wrong = Kept("things", tmp_path), []

    def work(value: int) -> None:
        for _ in range(30):
            store.write("k", {"a": torch.full((500,), value)})
            entry = store.read("k")
            if entry is None or len(entry.tensors["a"].unique()) != 1:
                wrong.append(value)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert [path.name for path in tmp_path.iterdir()] == ["k.safetensors"]


@given(st.dictionaries(st.text(max_size=3), st.integers() | st.floats(allow_nan=False) | st.lists(st.text(max_size=2))))
def test_keys_are_equal_for_equal_content_alone(content: dict) -> None:
    again = json.loads(json.dumps(dict(reversed(content.items()))))
    assert key_of(content=content) == key_of(content=again)
    assert key_of(content=content) != key_of(content=content | {"one more": 1})
    assert key_of(ids={255: "x", "cat": 1}) == key_of(ids={"cat": 1, 255: "x"}) != key_of(ids={254: "x", "cat": 1})
    with pytest.raises(TypeError):
        key_of(content=object())


def pictures(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, DIGEST), dtype=np.uint8)


def kept_records(folder: Path, of: np.ndarray) -> Records:
    """Records that hold the digest of their picture, some of them several times."""
    records = Records(Kept("records", folder), "settings", of)
    for shard in shards_of(records.missing()):
        assert records.write(shard, [of[i].tobytes() * (1 + int(i) % 3) for i in shard])
    records.refresh()
    return records


def test_records_are_found_by_what_a_picture_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("common.records.SHARD", 7)
    of = pictures(40)
    records = kept_records(tmp_path, of)
    assert not len(records.missing())
    assert len(list(tmp_path.iterdir())) == 6
    assert all(records[i] == of[i].tobytes() * (1 + i % 3) for i in range(40))
    other_order = np.concatenate([of[:0:-2], pictures(3, 1), of[5:6], of[5:6]])
    again = Records(Kept("records", tmp_path), "settings", other_order)
    assert again.missing().tolist() == [20, 21, 22]
    assert again[3].startswith(other_order[3].tobytes())
    assert again[24] == again[23] == records[5]
    assert len(Records(Kept("records", tmp_path), "other", of).missing()) == 40
    assert not len(Records(Kept("records", tmp_path), "settings", of[:0]).missing())


def test_a_flipped_bit_of_a_record_is_found_and_its_shard_made_again(tmp_path: Path) -> None:
    of, rng = pictures(30), random.Random(0)
    kept_records(tmp_path, of)
    (file,) = tmp_path.iterdir()
    whole, silent = file.read_bytes(), 0
    for bit in rng.sample(range(8 * len(whole)), 400):
        file.write_bytes(flipped(whole, bit))
        records = Records(Kept("records", tmp_path), "settings", of)
        found = [records[i] for i in range(30)]
        silent += all(record is not None for record in found)
        assert all(record is None or record == of[i].tobytes() * (1 + i % 3) for i, record in enumerate(found))
        if None in found and file.exists():  # the frame itself was broken: nothing was read
            assert len(records.missing())
        file.write_bytes(whole)
    assert silent < 40  # a space of the header
    file.write_bytes(flipped(whole, 8 * whole.index(of[5].tobytes() * 3)))
    damaged = Records(Kept("records", tmp_path), "settings", of)
    assert [i for i in range(30) if damaged[i] is None] == [5]
    assert not file.exists()
    assert damaged[4] is not None  # the others are still mapped
    assert not len(kept_records(tmp_path, of).missing())


def test_rows_of_equal_halves_are_not_mixed_up() -> None:
    known = pictures(5)
    twin = known[2:3].copy()
    twin[0, -1] ^= 1  # the same first half
    assert rows_of(known, np.concatenate([known[::-1], twin])).tolist() == [4, 3, 2, 1, 0, -1]
    assert rows_of(known[:0], known).tolist() == [-1] * 5
