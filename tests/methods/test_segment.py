"""Python in a notebook: whatever holds an image, words as text, results that show themselves."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from common.errors import UserError
from evaluation.segmentation import Segmentation
from methods import TrainingFree

PIXELS = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def model() -> TrainingFree:
    found = TrainingFree()
    found.use_vocabulary("red disc; blue square, blue box; grass")
    return found


def test_whatever_holds_an_image(model: TrainingFree, tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    Image.fromarray(PIXELS).save(file)
    tensor = torch.from_numpy(PIXELS).permute(2, 0, 1)
    same: list[Any] = [file, str(file), Image.fromarray(PIXELS), PIXELS, tensor, tensor / 255, PIXELS / 255]
    one = model.segment(PIXELS)
    assert isinstance(one, Segmentation)
    assert one.labels.shape == (40, 60)
    several = model.segment(same)
    assert len(several) == len(same)
    assert all(torch.equal(found.labels, one.labels) for found in several)
    grey = model.segment([PIXELS[..., 0], torch.rand(3, 10, 20)], with_score=True)
    assert grey[1].labels.shape == grey[1].score.shape == (10, 20)
    assert len(model.segment(torch.rand(2, 3, 32, 32))) == 2


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"a": 1}, "dict is no image"),
        (torch.rand(4, 8, 8), r"Tensor of shape \(4, 8, 8\) is no image"),
        (np.zeros((0, 4, 3)), "is no image"),
        (torch.full((3, 8, 8), 2.0), "holds values from 2 to 2"),
        ("absent.png", "'absent.png' does not exist"),
    ],
)
def test_anything_else_is_answered_with_a_sentence(model: TrainingFree, given: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        model.segment(given)


def test_results_show_and_save_themselves(model: TrainingFree, tmp_path: Path) -> None:
    result = model.segment(PIXELS)
    assert sum(result.shares.values()) == pytest.approx(1)
    assert list(result.shares.values()) == sorted(result.shares.values(), reverse=True)
    assert repr(result).startswith("Segmentation(40 x 60: ")
    assert result.overlay().width >= 60
    assert result._repr_png_().startswith(b"\x89PNG")
    result.save(tmp_path / "labels.png")
    with Image.open(tmp_path / "labels.png") as image:
        assert np.array_equal(np.array(image), result.labels.numpy())
    assert repr(model) == "TrainingFree(sees nothing, protocol shapes, asked for red disc, blue square, grass)"
