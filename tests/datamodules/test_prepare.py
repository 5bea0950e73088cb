"""``zerolabel prepare``: all faults at once, and nothing to say where all is well."""

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import cli
from datamodules import DATAMODULES
from datamodules.labelled import OriginalFiles
from datamodules.prepare import prepare
from tests import data as tiny

NAMES = [name for name, data in DATAMODULES.items() if issubclass(data, OriginalFiles)]


@pytest.fixture
def tiny_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests' downloads hold three pictures."""
    for name in NAMES:
        monkeypatch.setattr(DATAMODULES[name], "published", replace(DATAMODULES[name].published, counts={"val": 3}))


@pytest.mark.usefixtures("tiny_counts")
@pytest.mark.parametrize("name", NAMES)
def test_a_whole_download_is_called_complete(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = tiny.DATA[name](tmp_path)
    assert cli.main(["prepare", name.lower(), "--root", options["root"]]) == 0
    out = capsys.readouterr().out
    assert "is complete: 3 pictures of the split 'val'" in out
    assert f"--data {name} --data.root {tmp_path}" in out


@pytest.mark.parametrize("name", NAMES)
def test_counts_and_addresses_are_said(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = tiny.DATA[name](tmp_path)
    data = DATAMODULES[name]
    assert cli.main(["prepare", name.lower(), "--root", options["root"]]) == 2
    error = capsys.readouterr().err
    assert f"names 3 pictures, published are {data.published.counts['val']}" in error
    assert all(address in error for address, _ in data.published.archives.values())
    assert error.rstrip().endswith(f"error: 1 fault in '{tmp_path}', listed above.")


@pytest.mark.usefixtures("tiny_counts")
def test_all_faults_are_listed_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = tiny.make_voc(tmp_path)
    folder = tmp_path / "VOCdevkit" / "VOC2012"
    (folder / "JPEGImages" / f"{tiny.VOC_NAMES[0]}.jpg").unlink()
    Image.fromarray(np.full((60, 80), 77, np.uint8)).save(folder / "SegmentationClass" / f"{tiny.VOC_NAMES[0]}.png")
    picture = folder / "JPEGImages" / f"{tiny.VOC_NAMES[1]}.jpg"
    picture.write_bytes(picture.read_bytes()[:700])
    Image.fromarray(np.zeros((5, 5), np.uint8)).save(folder / "SegmentationClass" / f"{tiny.VOC_NAMES[2]}.png")
    assert cli.main(["prepare", "voc", "--root", options["root"]]) == 2
    faults = [line for line in capsys.readouterr().err.splitlines() if line.startswith("fault")]
    assert len(faults) == 4
    for part in (
        "000000.jpg' does not exist",
        "mask value 77",
        "000001.jpg' cannot be read",
        "is (5, 5) but its picture is (48, 48)",
    ):
        assert sum(part in fault for fault in faults) == 1


def test_pictures_and_labels_that_are_both_absent_are_both_named(tmp_path: Path) -> None:
    faults = prepare(DATAMODULES["COCO"](str(tmp_path)))
    assert [sum(archive in fault for fault in faults) for archive in ("/zips/val2017.zip", "/stuffthingmaps")] == [1, 1]


@pytest.mark.usefixtures("tiny_counts")
def test_an_archive_is_compared_with_its_published_sum(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = tiny.make_ade(tmp_path)
    archive = tmp_path / "ADEChallengeData2016.zip"
    tiny.pack(tmp_path / "ADEChallengeData2016", archive, "ADEChallengeData2016")
    data: Any = DATAMODULES["ADE"](**options)
    found = hashlib.md5(archive.read_bytes()).hexdigest()
    assert prepare(data)[0].startswith(f"'{archive}' has MD5 {found}, published is 7328b3957e407ddae1d3cbf487f149ef.")
    right = replace(data.published, archives={archive.name: ("https://here", found)})
    monkeypatch.setattr(DATAMODULES["ADE"], "published", right)
    assert prepare(data) == []
    assert prepare(DATAMODULES["ADE"](str(archive))) == []


@pytest.mark.usefixtures("tiny_counts")
def test_a_file_that_changed_since_the_last_check_is_named(tmp_path: Path) -> None:
    data = DATAMODULES["VOC"](**tiny.make_voc(tmp_path))
    assert prepare(data) == []
    assert (tmp_path / "zerolabel-voc-val.sha256").read_text().count("\n") == 6
    assert prepare(data) == []
    tiny.picture(tmp_path / "VOCdevkit" / "VOC2012" / "JPEGImages", tiny.VOC_NAMES[1], (90, 64))
    changed = tmp_path / "VOCdevkit" / "VOC2012" / "SegmentationClass" / f"{tiny.VOC_NAMES[1]}.png"
    Image.fromarray(np.full((90, 64), 3, np.uint8)).save(changed)
    assert prepare(data) == [f"'{changed}' has changed since the last check ({tmp_path}/zerolabel-voc-val.sha256)."]
