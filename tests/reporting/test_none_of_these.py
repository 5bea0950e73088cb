"""``test`` leaves a risk file, ``predict --risk`` answers "none of the words" by it, and a report draws the curves."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import cli
from datamodules import Shapes
from tests.commands.test_cli import fails

SCLIP = ["--config", "configs/training_free/sclip.yaml", "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"]
SQUARES = "green plain square; red striped square; blue checkered square"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a test whose words leave three classes out."""
    root = tmp_path_factory.mktemp("runs")
    data = ["--data.vocabulary=shapes12", "--data.pictures=24", "--data.num_workers=0", f"--data.leave_out_classes={SQUARES}"]
    assert cli.main(["test", *SCLIP, *data, f"--trainer.default_root_dir={root}"]) == 0
    (folder,) = root.iterdir()
    return folder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, benchmark = tmp_path_factory.mktemp("pictures"), Shapes(pictures=2).benchmark("test")
    for i in range(2):
        Image.fromarray(benchmark[i]["image"].permute(1, 2, 0).numpy()).save(folder / f"{i}.png")
    return folder


def words(run: Path) -> str:
    return "; ".join(json.loads((run / "test" / "risk.json").read_text())["asked"]["words"])


def test_a_test_tells_the_risk_and_counts_what_is_left_out(run: Path) -> None:
    metrics, risks = (json.loads((run / "test" / f"{name}.json").read_text()) for name in ("metrics", "risk"))
    assert metrics["vocabulary"] == f"shapes12 without {SQUARES.replace(';', ',')}"
    assert metrics["data"].startswith("Shapes without green plain square")
    assert risks["pictures"] == metrics["pictures"] == 24
    assert len(risks["asked"]["words"]) == 9
    assert risks["coverage"][0] == 1
    assert risks["risk"][0] > 1 - metrics["pixel_accuracy"]  # which does not count what has no word
    assert 0 < metrics["aurc"] < risks["risk"][0]
    assert 0.5 < metrics["left_out"]["auroc"] < 1
    assert metrics["coverage_at_risk"]["0.1"] <= metrics["coverage_at_risk"]["0.2"]


def test_predict_rejects_what_the_risk_asks_for(
    run: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    risk, asked = str(run / "test" / "risk.json"), ["--images", str(pictures), "--classes", words(run)]
    shares = {}
    for name, options in {"plain": [], "loose": ["--risk=.3"], "strict": ["--risk=.2"]}.items():
        options = [*options, "--risk_from", risk] if options else []
        assert cli.main(["predict", *SCLIP, *asked, *options, "--output", str(tmp_path / name)]) == 0
        maps = [np.asarray(Image.open(tmp_path / name / "labels" / f"{i}.png.png")) for i in range(2)]
        content = json.loads((tmp_path / name / "predictions.json").read_text())
        rows = [row.get("none", 0) for row in content["pictures"]]
        assert rows == pytest.approx([(labels == 255).mean() for labels in maps], abs=1e-4)
        shares[name] = np.mean(rows)
        page = (tmp_path / name / "predictions.html").read_text()
        assert ("none of these" in page) == any(rows)
    assert shares["plain"] == 0
    assert 0 < shares["loose"] < shares["strict"]
    said = capsys.readouterr().out
    assert "in the mean at most 20.0% of a picture's pixels get a wrong class, if pictures are like the 24 of Shapes" in said
    # the same threshold by itself gives the same maps
    below = content["none"]["below"]
    assert content["none"] == {"below": below, "risk": 0.2, "risk_from": risk}
    assert cli.main(["predict", *SCLIP, *asked, f"--none_below={below}", "--output", str(tmp_path / "below")]) == 0
    assert (np.asarray(Image.open(tmp_path / "below" / "labels" / "1.png.png")) == maps[1]).all()


def test_what_predict_refuses(run: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output, risk = tmp_path / "out", str(run / "test" / "risk.json")
    (tmp_path / "other.json").write_text("{}")
    command = ["predict", *SCLIP, "--images", str(pictures), "--output", str(output), "--classes"]
    own, of_risk = words(run), ["--risk=.2", "--risk_from", risk]
    for options, message in (
        ([own, "--risk=.1"], "--risk and --risk_from go together"),
        ([own, "--risk_from", risk], "--risk and --risk_from go together"),
        ([own, "--risk=high", "--risk_from", risk], "--risk is 'high'; it must be a number from 0 to 1"),
        ([own, "--none_below=1.5"], "--none_below is 1.5; it must be a number from 0 to 1"),
        ([own, "--none_below=.5", *of_risk], "--risk and --none_below exclude each other"),
        ([own, "--none_below=.5", "--smooth=.5"], "--none_below and --smooth exclude each other"),
        ([own, "--risk=.1", "--risk_from", str(tmp_path / "none")], "does not exist"),
        ([own, "--risk=.1", "--risk_from", str(tmp_path / "other.json")], "is no risk file"),
        ([own, "--risk=.01", "--risk_from", risk], "24 cannot vouch for less than 0.04"),
        (["cat; dog", *of_risk], "is of other words: "),
        ([own, *of_risk, "--model.rule=naclip"], "is of other options: rule: sclip, not rule: naclip"),
        (
            [own, *of_risk, '--model.protocol_values={"temperature": 50}'],
            "is of other rules: temperature: 40, not",
        ),
    ):
        assert message in fails(capsys, *command, *options)
        assert not (output / "predictions.json").exists()


def test_the_report_draws_all_methods(run: Path, tmp_path: Path) -> None:
    assert cli.main(["report", f"one={run}", f"two={run}", "--output", str(tmp_path)]) == 0
    page = (tmp_path / "report.html").read_text()
    (drawn,) = re.findall(r'<svg class="risk".*?</svg>', page, re.DOTALL)
    curves = [re.findall(r"([\d.]+),([\d.]+)", points) for points in re.findall(r'points="([^"]+)"', drawn)]
    assert [len(curve) for curve in curves] == [60, 60]
    assert all(10 <= float(y) <= 250 and 50 < float(x) <= 470 for curve in curves for x, y in curve)
    assert "Left out are green plain square, red striped square, blue checkered square" in page
    table = re.search(r'<table class="sorted risks">.*?</table>', page, re.DOTALL)[0]
    metrics = json.loads((run / "test" / "metrics.json").read_text())
    assert f'data-v="{metrics["aurc"]:.6f}"' in table
    assert f'data-v="{metrics["left_out"]["auroc"]:.6f}"' in table
