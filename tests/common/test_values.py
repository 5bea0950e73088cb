"""Values of parameters are checked where an object is made, from Python as from the command line."""

from typing import Any

import pytest

from common.errors import UserError
from datamodules import Shapes, WordMaps
from datamodules.pictures import Pictures
from methods import LinearProbe, TrainingFree


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Shapes(pictures=0), "pictures of Shapes is 0; it must be a whole number from 1 up"),
        (lambda: Shapes("shapes12", -1), "seed of Shapes is -1; it must be a whole number from 0 up"),
        (lambda: Shapes(train="masques"), "unknown train 'masques'. Did you mean 'masks'"),
        (lambda: Shapes(batch_size=2.5), "batch_size of Shapes is 2.5; it must be a whole number from 1 up"),
        (lambda: Shapes(batch_size=True), "batch_size of Shapes is True"),
        (lambda: WordMaps("cat; dog", num_workers=-1), "num_workers of WordMaps is -1; it must be a whole number from 0 up"),
        (lambda: Pictures("tests", "cat", 0), "batch_size of Pictures is 0"),
        (lambda: TrainingFree(window_batch=-4), "window_batch of TrainingFree is -4; it must be a whole number from 1 up"),
        (lambda: TrainingFree(rule="sclop"), "unknown rule 'sclop'. Did you mean 'sclip'"),
        (lambda: LinearProbe(learning_rate=-1.0), r"learning_rate of LinearProbe is -1.0; it must be a number from 0 up"),
        (lambda: LinearProbe(learning_rate=float("nan")), "learning_rate of LinearProbe is nan"),
    ],
)
def test_a_value_out_of_range_is_named(make: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make()


def test_none_stands_for_the_default_where_it_may() -> None:
    assert WordMaps("cat; dog", seed=None, num_workers=0).num_workers == 0
