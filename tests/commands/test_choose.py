"""choose: what label maps tell of themselves, and the command that ranks by it."""

import csv
import math
from pathlib import Path

import pytest
import torch
import yaml

import cli
from common.images import read_image
from evaluation.choosing import Seen, criteria, look, ranking
from evaluation.label_map import LabelMap
from tests import data as tiny

ROWS = [
    {"name": name, "config": f"configs/training_free/{config}.yaml"}
    for name, config in {"SCLIP": "sclip", "MaskCLIP": "maskclip", "GEM": "gem"}.items()
]


def pictures(folder: Path) -> Path:
    for number in range(3):
        tiny.picture(folder, f"{number}", (48, 64), seed=number)
    return folder


def plan(path: Path, rows: list[dict[str, object]]) -> str:
    benchmarks = [{"name": "b", "data": "Shapes", "protocol": "shapes"}]
    path.write_text(yaml.safe_dump({"title": "t", "methods": rows, "benchmarks": benchmarks}))
    return str(path)


def test_agreement_is_lowest_for_the_one_that_does_what_no_other_does() -> None:
    left = torch.zeros(8, 8, dtype=torch.uint8)
    left[:, :4] = 1
    nearly = left.clone()
    nearly[0] = 0
    maps = {"left": left, "nearly": nearly, "inverted": 1 - left}
    found = criteria({name: Seen([m], [m], [0.5]) for name, m in maps.items()}, 2)
    half = found["left"]["agreement"]
    assert found["inverted"]["agreement"] < half
    inside, outside = 28 / 32, 32 / 36  # IoU of the left half, and of the rest, with its first row taken away
    assert half == pytest.approx(((inside + outside) / 2 + 0) / 2)
    assert math.isnan(criteria({"alone": Seen([left], [left], [0.5])}, 2)["alone"]["agreement"])


def test_agreement_and_certainty_rank_together() -> None:
    numbers = {"a": (0.9, 0.1), "b": (0.8, 0.8), "c": (0.2, 0.9), "d": (0.1, 0.2)}
    found = {name: {"agreement": x, "certainty": y, "stability": 0.0} for name, (x, y) in numbers.items()}
    assert ranking(found) == ["c", "b", "a", "d"]  # ranks 1 + 1, 2 + 0, 0 + 3, 3 + 2; of equal ones the more certain is first


def test_stability_sees_what_depends_on_the_side() -> None:
    def bright(images: list[torch.Tensor], with_score: bool = False) -> list[LabelMap]:
        return [LabelMap((image[0] > 0.5).to(torch.uint8), torch.full(image.shape[1:], 0.8)) for image in images]

    def left_only(images: list[torch.Tensor], with_score: bool = False) -> list[LabelMap]:
        found = bright(images)
        found[0].labels[:, images[0].shape[2] // 2 :] = 0
        return found

    images = [torch.rand(3, 40, 1300) for _ in range(2)]
    found = criteria({"bright": look(bright, images), "left": look(left_only, images)}, 2)
    assert found["bright"]["stability"] == 1
    assert found["left"]["stability"] < 0.5
    assert found["left"]["certainty"] == pytest.approx(0.8)
    assert look(bright, images).maps[0].shape == (14, 434)  # every third pixel of 1300


def test_the_command_ranks_and_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = pictures(tmp_path / "pictures")
    (folder / "broken.png").write_bytes(b"no picture")
    out = tmp_path / "ranking.csv"
    options = ["--images", str(folder), "--classes", "background; red disc: small; null", "--output", str(out)]
    assert cli.main(["choose", *options, "--config", plan(tmp_path / "plan.yaml", ROWS)]) == 0
    rows = list(csv.DictReader(out.open()))
    assert {row["method"] for row in rows} == {"SCLIP", "MaskCLIP", "GEM"}
    columns = {key: [float(row[key]) for row in rows] for key in ("agreement", "certainty")}
    ranks = [sum(sum(other > column[i] for other in column) for column in columns.values()) for i in range(3)]
    assert ranks == sorted(ranks)
    shown = capsys.readouterr().out
    assert "no masks" in shown
    assert "left out: " in shown
    assert "broken.png" in shown


def test_the_same_row_twice_agrees_with_itself(tmp_path: Path) -> None:
    folder = pictures(tmp_path / "pictures")
    twice = [ROWS[0], {**ROWS[0], "name": "again"}, {"name": "fit", "config": "configs/freeseg/shapes.yaml", "fit": True}]
    out = tmp_path / "ranking.csv"
    options = ["--images", str(folder), "--classes", "background; red striped square", "--output", str(out)]
    assert cli.main(["choose", *options, "--config", plan(tmp_path / "plan.yaml", twice)]) == 0
    rows = list(csv.DictReader(out.open()))
    assert [(row["method"], float(row["agreement"])) for row in rows] == [("SCLIP", 1.0), ("again", 1.0)]
    assert len([read_image(path) for path in sorted(folder.iterdir())]) > 1


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        (ROWS[:1], [], "has 1 row without training; there is nothing to choose from"),
        (ROWS, ["--images", "/absent"], "'/absent' does not exist"),
        (ROWS, ["--pictures", "0"], "pictures is 0"),
        (ROWS, ["--protocol", "nonsense"], "unknown protocol 'nonsense'"),
        (ROWS, ["--classes", ""], "class"),
        (ROWS, ["--output", "tests"], "--output 'tests' is a folder. Name a file in it: --output tests/ranking.csv"),
    ],
)
def test_mistakes_are_one_line(
    rows: list[dict[str, object]], options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = pictures(tmp_path / "pictures")
    asked = ["--images", str(folder), "--classes", "cat; dog", "--config", plan(tmp_path / "plan.yaml", rows), *options]
    assert cli.main(["choose", *asked]) == 2
    error = capsys.readouterr().err.strip()
    assert message in error
    assert error.count("\n") == 0
