"""Published numbers: each with protocol, backbone and source, as on the board, shown beside the table and never in it."""

import csv
import re
from pathlib import Path

import pytest
import torch

import cli
import datamodules
from evaluation import Vocabulary
from reporting.columns import columns
from reporting.page import write_report
from reporting.plan import Comparison
from reporting.quotes import MEAN, cited, content, quoted_on, quotes
from reporting.tables import write_tables
from tests.conftest import SHARED, needs_shared
from tests.reporting.test_compare import result

BOARD = ["voc21", "voc20", "context60", "context59", "coco_object", "coco_stuff171", "ade150", "cityscapes", MEAN]
ROWS = 120


def test_every_row_says_what_it_is_and_where_it_stands() -> None:
    assert len(quotes()) == len(content()["rows"]) == ROWS
    for row in quotes():
        assert all((row.method, row.backbone, row.label_free, row.post, row.source, row.numbers)), row
        assert row.protocol in content()["protocols"], row
        assert set(row.source) <= set(content()["sources"]), row
        assert set(row.numbers) <= {*content()["benchmarks"], MEAN}, row
        assert all(0 < float(end) < 100 for number in row.numbers.values() for end in number.split("-")), row
    for source in content()["sources"].values():
        assert all(source[part] for part in ("paper", "table", "id")), source


def test_its_benchmarks_are_ours() -> None:
    for vocabulary, about in content()["benchmarks"].items():
        assert vocabulary in Vocabulary.known_names()
        assert vocabulary in datamodules.DATAMODULES[about["data"]].label_spaces


@needs_shared
def test_the_numbers_are_the_boards() -> None:
    """All rows of its table that hold a number, and of the table of 15 unseen classes."""
    text = (SHARED / "facts" / "board.md").read_text()
    cells = [[cell.strip(" *") for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("| ")]
    expected = []
    for row in cells:
        if len(row) == 16 and re.fullmatch("[A-E]", row[0]):
            numbers = {
                name: re.sub(r"\*| \(\w\)", "", cell) for name, cell in zip(BOARD, row[3:12], strict=True) if cell != "-"
            }
            expected += [(row[1], row[13], numbers)] if numbers else []
        elif len(row) == 5 and re.search(r"IF[14]", row[-1]):
            expected.append((row[0], "IF15", {"coco_unseen15": row[2]}))
    assert [(row.method, row.protocol, row.numbers) for row in quotes()] == expected


def test_quotes_are_shown_apart_and_never_ranked(tmp_path: Path) -> None:
    measured = [result(name, torch.randint(20, 40, (9,)), data="VOC, val", vocabulary="voc21") for name in ("mine", "SCLIP")]
    plan = Comparison("t", [], [])
    write_tables(measured, plan, tmp_path)
    write_report(measured, plan, tmp_path)
    quoted = quoted_on("voc21", "VOC, val")
    assert max(float(row.numbers["voc21"]) for row in quoted) > 80  # more than any that is measured
    (column,) = columns(measured)
    assert [entry.method for entry in column.entries if entry.best or entry.p_value is not None] == ["mine", "SCLIP"]
    assert [row["method"] for row in csv.DictReader((tmp_path / "results.csv").open())] == ["mine", "SCLIP"]
    assert "59.63" not in (tmp_path / "results.tex").read_text() + (tmp_path / "per_class.csv").read_text()
    table, _, block = (tmp_path / "results.md").read_text().partition("as quoted")
    assert "59.63" not in table
    assert f"| SCLIP | OpenAI ViT-B/16 | 59.63 | SC | {cited('SCR')} |" in block
    page = (tmp_path / "report.html").read_text()
    ranked, _, shown = page.partition('<table class="quotes published">')
    assert "59.63" not in ranked
    assert "OV-Stitcher" not in ranked
    assert shown.partition("</table>")[0].count('<th scope="row">') == len(quoted) > 40
    assert "not comparable with the measured numbers" in ranked


@pytest.mark.parametrize(
    ("vocabulary", "data"),
    [
        ("shapes13", "Shapes"),
        ("voc21", "Folder, photos"),
        ("voc21", "VOC, train"),
        ("voc21", "Context, val"),
        ("x", "VOC, val"),
    ],
)
def test_other_words_or_pictures_have_no_quotes(vocabulary: str, data: str) -> None:
    assert quoted_on(vocabulary, data) == []


def test_all_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["list", "quotes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines.index("") == 2 + ROWS
    assert sum("59.63" in line and "SCLIP" in line for line in lines) == 1
    assert cli.main(["list"]) == 0
    assert "59.63" not in capsys.readouterr().out
