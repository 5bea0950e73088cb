"""What people see of ``predict``: overlays that keep the photograph, pages that show all of them, nothing segmented twice."""

import html
import json
import re
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from PIL import Image

import cli
from common.drawing import outlines, tint
from evaluation import Vocabulary
from reporting import prediction_pages
from reporting.prediction_pages import write_pages

SCLIP = ["--config", "configs/training_free/sclip.yaml"]


def test_the_photograph_stays_visible() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    labels = np.zeros((60, 80), np.uint8)
    labels[20:40, 30:70] = 1
    palette = np.array([[0, 0, 0], [200, 40, 10]], np.uint8)
    shown = np.asarray(tint(pixels, labels, palette, background=0))
    assert np.array_equal(shown[labels == 0], pixels[labels == 0])
    assert (shown[20, 30:70] == palette[1]).all()
    inside = shown[22:38, 32:68].astype(float)
    assert np.abs(inside - (0.6 * pixels[22:38, 32:68] + 0.4 * palette[1])).max() < 1.01
    assert (np.asarray(tint(pixels, labels, palette))[0] != pixels[0]).any()  # without a background every class has its tint
    assert np.array_equal(outlines(labels, 1).nonzero()[0].min(), 19)


def test_a_second_run_into_the_same_folder_segments_the_same_pictures(tmp_path: Path) -> None:
    for i in range(2):
        pixels = np.random.default_rng(i).integers(0, 256, (40, 60, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"holiday & {i}.png")
    for _ in range(2):
        options = ["--images", str(tmp_path), "--classes", "cat; dog", "--output", str(tmp_path)]
        assert cli.main(["predict", *SCLIP, *options]) == 0
        rows = json.loads((tmp_path / "predictions.json").read_text())["pictures"]
        assert [row["picture"] for row in rows] == ["holiday & 0.png", "holiday & 1.png"]
    page = (tmp_path / "predictions.html").read_text()
    sources = [unquote(html.unescape(source)) for source in re.findall(r'src="([^"]+)"', page)]
    assert len(sources) == 4
    assert all((tmp_path / source).is_file() for source in sources)


def test_thousands_of_pictures_come_in_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prediction_pages, "PICTURES_A_PAGE", 2)
    rows = [{"picture": f"{i}.jpg", "size": [4, 6], "classes": {"cat": {"area": 0.004, "score": 0.5}}} for i in range(5)]
    write_pages(tmp_path, tmp_path, rows, Vocabulary.parse("cat; <dog>"), "5 pictures")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["predictions-2.html", "predictions-3.html", "predictions.html"]
    last = (tmp_path / "predictions-3.html").read_text()
    assert ('src="4.jpg"' in last, 'href="predictions.html"' in last, "&lt; 1 %" in last) == (True, True, True)


def test_without_an_output_a_folder_of_its_own_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(tmp_path / "a.png")
    config = str(Path("configs/training_free/sclip.yaml").resolve())
    monkeypatch.chdir(tmp_path)
    assert cli.main(["predict", "--config", config, "--images", "a.png", "--classes", "cat; dog"]) == 0
    (folder,) = (tmp_path / "runs").iterdir()
    assert folder.name.startswith("predict-")
    assert (folder / "predictions.html").is_file()


def test_a_picture_too_large_is_named_and_the_others_are_done(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(tmp_path / "a.png")
    Image.new("1", (20000, 8000)).save(tmp_path / "satellite.png")
    options = ["--images", str(tmp_path), "--classes", "a: b; null", "--output", str(tmp_path / "out")]
    assert cli.main(["predict", *SCLIP, *options]) == 2
    says = "satellite.png' has 160 megapixels; at most 100 are read. Make a smaller copy of it; predict --tile 1024 cuts it up."
    assert says in capsys.readouterr().err
    content = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert content["vocabulary"] == ["a: b", "null"]  # words are text, whatever YAML would make of them
    assert [row["picture"] for row in content["pictures"]] == ["a.png"]
