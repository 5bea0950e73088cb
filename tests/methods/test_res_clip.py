"""ResCLIP against its released code: label maps, made as :mod:`tests.methods.test_released_path` says, and its numbers."""

import json
from pathlib import Path

import pytest
import torch

from common.errors import UserError
from methods import METHODS
from methods.res_clip import RCS_TAU, RELEASED
from tests.conftest import ROOT, needs_shared
from tests.methods.test_released_path import agrees, drawn_clip

MAPS = Path(__file__).with_name("released_resclip.npz")


@needs_shared
def test_label_maps_are_those_of_the_released_code(tmp_path: Path) -> None:
    agrees(METHODS["ResCLIP"](protocol="resclip", **drawn_clip(tmp_path, 12)), "resclip", 0.994, MAPS)


def test_the_numbers_are_the_released_ones() -> None:
    released = json.loads((ROOT / "tests" / "evaluation" / "released.json").read_text())["resclip"]
    assert set(RELEASED) == set(released)
    for benchmark, (rcs_lambda, sfr_tau, sfr_lambda, threshold) in RELEASED.items():
        theirs = released[benchmark]
        assert (theirs["rcs"], theirs["sfr"]) == ([RCS_TAU, rcs_lambda], [sfr_tau, sfr_lambda])
        assert theirs["feedback_threshold"] == threshold


def test_each_number_changes_the_scores() -> None:
    image = torch.rand(1, 3, 64, 64)
    found = []
    for given in (
        {},
        {"rcs_lambda": 0.9},
        {"sfr_tau": 9.0},
        {"sfr_lambda": 0.1},
        {"feedback_threshold": 1.0},
        {"rule": "sclip"},
    ):
        model = METHODS["ResCLIP"](**given)
        model.use_vocabulary("shapes16")
        found.append(model(image))
    assert all(not torch.allclose(found[0], other, atol=1e-5) for other in found[1:])


def test_only_attention_to_itself_can_be_refined() -> None:
    with pytest.raises(UserError, match="surgery"):
        METHODS["ResCLIP"](rule="surgery")
