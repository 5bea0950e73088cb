"""Pictures that were seen before are not looked at again, and everything comes out the same."""

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from backbones.remembered import TokenMemory, fingerprint, remembered
from methods import METHODS
from tests.reporting.test_compare import OBJECTS, PLAN, SCLIP, run


@pytest.mark.parametrize("rule", ["sclip", "surgery"])
def test_other_words_are_asked_of_the_same_tokens(rule: str) -> None:
    images = [torch.rand(3, 64, 96), torch.rand(3, 96, 64)]
    words = ("red striped square; grass", "green dotted star; sand; water")
    plain, model = METHODS["TrainingFree"](rule), METHODS["TrainingFree"](rule)
    memory = TokenMemory()
    with remembered(model, memory):
        for turn, asked in enumerate(words):
            for each in plain, model:
                each.use_vocabulary(asked)
            for a, b in zip(plain.segment(images, with_score=True), model.segment(images, with_score=True), strict=True):
                assert torch.equal(a.labels, b.labels)
                assert torch.equal(a.score, b.score)
            assert (memory.recalled > 0) == (turn > 0)
        seen = memory.recalled
        model.segment([image.flip(2) for image in images])  # mirrored: others
        model.protocol = model.protocol.changed(position_resize="bilinear")
        model.segment(images)
        assert memory.recalled == seen
        model.segment(images)
        assert memory.recalled > seen
    recalled = memory.recalled
    model.segment(images)
    assert memory.recalled == recalled


@torch.no_grad()
def test_the_memory_is_bounded_and_keeps_what_came_first() -> None:
    first, second = torch.rand(2, 1, 3, 32, 32)
    calls: list[torch.Tensor] = []

    def look(images: torch.Tensor) -> tuple[None, torch.Tensor]:
        calls.append(images)
        return None, images * 2

    memory = TokenMemory(limit=first.nbytes)
    for _ in range(3):
        for images in first, second:
            assert torch.equal(memory.tokens(0, look, images)[1], images * 2)
    assert [torch.equal(images, first) for images in calls] == [True, False, False, False]
    memory.tokens(1, look, first)  # of another tower
    assert len(calls) == 5


@given(st.integers(0, 2**32), st.integers(0, 199), st.integers(0, 199))
def test_a_fingerprint_knows_every_value_and_its_place(seed: int, a: int, b: int) -> None:
    values = torch.rand(200, generator=torch.Generator().manual_seed(seed))
    swapped, changed = values.clone(), values.clone()
    swapped[[a, b]] = values[[b, a]]
    changed[a] = torch.nextafter(values[a], torch.tensor(2.0))
    assert fingerprint(values) == fingerprint(values.clone())
    assert (fingerprint(swapped) == fingerprint(values)) == torch.equal(swapped, values)
    assert fingerprint(changed) != fingerprint(values)


def test_a_comparison_looks_once_and_says_where_it_was_quick(tmp_path: Path) -> None:
    asked = OBJECTS | {"name": "all", "options": OBJECTS["options"] | {"vocabulary": "shapes16"}}
    plan: dict[str, Any] = PLAN | {"methods": [SCLIP], "seeds": [0]}
    both = run(tmp_path, plan | {"benchmarks": [OBJECTS, asked]})
    alone = run(tmp_path, plan | {"benchmarks": [asked]}, "alone")
    rows, (row,) = (list(csv.DictReader((out / "results.csv").open())) for out in (both, alone))
    assert rows[1]["miou"] == row["miou"]
    assert [bool(each["pictures_per_second"]) for each in (*rows, row)] == [True, False, True]
    assert " | – |\n" in (both / "results.md").read_text()
    assert " | – |\n" not in (alone / "results.md").read_text()
