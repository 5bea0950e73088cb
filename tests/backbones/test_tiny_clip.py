"""The shipped tiny CLIP still loads and scores what the README says, and the benchmark is calibrated."""

import re

import pytest
import torch

from backbones.clip import CHECKPOINTS
from datamodules import DATAMODULES
from datamodules.shapes import world as shapes_world
from evaluation import Vocabulary
from methods import METHODS
from tests.conftest import ROOT

PICTURES = 300


@pytest.fixture(scope="module")
def readme_table() -> dict[str, float]:
    """mIoU of the methods on objects + background, as the README prints it."""
    rows = re.findall(r"^\| ([\w ()]+?) \| [\w ()]+ \| \**([\d.]+)\**", (ROOT / "README.md").read_text(), re.M)
    return {name: float(miou) for name, miou in rows}


def score(rule: str, vocabulary: str = "shapes13", pictures: int = PICTURES) -> float:
    data = DATAMODULES["Shapes"](vocabulary, pictures=pictures, num_workers=0)
    model = METHODS["TrainingFree"](rule)
    model.use_vocabulary(data.vocabulary)
    for batch in data.test_dataloader():
        model._score(batch)
    return 100 * model.metric.result()["miou"].item()


def test_it_is_small() -> None:
    assert sum(path.stat().st_size for path in CHECKPOINTS.iterdir()) < 8e6


@pytest.mark.parametrize(("rule", "name"), [("clip", "CLIP (dense)"), ("sclip", "SCLIP")])
def test_it_scores_what_the_readme_says(rule: str, name: str, readme_table: dict[str, float]) -> None:
    assert score(rule) == pytest.approx(readme_table[name], abs=0.11)


def test_the_benchmark_leaves_room(readme_table: dict[str, float]) -> None:
    """Dense CLIP between 15 and 45, the oracle above 75: methods can differ."""
    assert 15 < readme_table["CLIP (dense)"] < 45
    assert readme_table["linear probe"] > 75


def test_a_name_that_no_caption_said_is_found() -> None:
    """The vocabulary is open, if weakly: of the four held-out combinations of words, "red plain disc" is understood."""
    data = DATAMODULES["Shapes"]("shapes_open", pictures=100, num_workers=0)
    model = METHODS["TrainingFree"]("sclip")
    model.use_vocabulary(data.vocabulary)
    for batch in data.test_dataloader():
        model._score(batch)
    red_plain_disc = data.vocabulary.names.index("red plain disc")
    assert red_plain_disc - 1 in shapes_world.HELD_OUT
    matrix = model.metric.result()["matrix"].float()
    assert matrix[red_plain_disc].argmax() == red_plain_disc
    assert matrix[red_plain_disc, red_plain_disc] / matrix[red_plain_disc].sum() > 0.3


def test_any_word_can_be_asked() -> None:
    """Words outside the tiny vocabulary fall back to bytes."""
    model = METHODS["TrainingFree"]("clip")
    model.use_vocabulary(Vocabulary.parse("Zürich; 猫; e-scooter 50%"))
    assert model.text_QC.shape == (3, 128)
    assert torch.pdist(model.text_QC).min() > 1e-3
