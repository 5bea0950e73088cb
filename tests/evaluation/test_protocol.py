from dataclasses import fields, replace

import pytest
import yaml

from common.errors import UserError
from evaluation import Protocol, Vocabulary
from tests.conftest import SHARED, needs_shared


def test_a_preset_takes_the_benchmarks_own_values() -> None:
    voc, stuff = Protocol.preset("sclip", "voc21"), Protocol.preset("sclip", "coco_stuff171")
    assert (voc.temperature, voc.background, voc.background_value, voc.area_threshold) == (65, "words", 0.1, 0.1)
    assert (stuff.short_side, stuff.temperature, stuff.background) == (448, 40, "none")
    assert Protocol.preset("sclip", "voc21", temperature=30).temperature == 30


@needs_shared
def test_presets_are_the_fact_sheets() -> None:
    facts = yaml.safe_load((SHARED / "facts" / "datasets.yaml").read_text())
    for name in ("zeroseg", "groupvit", "segclip"):
        entry = facts["evaluation_presets"][name]
        for benchmark, threshold in entry["bg_threshold"].items():
            preset = Protocol.preset(name, benchmark)
            assert (preset.background, preset.background_value) == ("threshold", threshold)
            assert preset.short_side == entry["short_side"]
            assert preset.max_long_side == entry["max_long_side"]
    for name, templates in facts["prompts"].items():
        assert replace(Protocol(), templates=name).template_list == templates


def test_the_hash_covers_every_rule_but_not_the_name() -> None:
    base = Protocol()
    changed = {
        "short_side": 448, "max_long_side": 1024, "crop": 448, "stride": 56, "templates": "simple", "ensemble": "raw",
        "wording": "sclip", "synonyms": "mean", "temperature": 50.0, "activation": "sigmoid", "background": "words",
        "background_value": 0.1, "area_threshold": 0.1, "position_resize": "bilinear", "refine": "pamr",
        "pamr_dilations": (1, 2), "pamr_iterations": 5, "gate_classes": 5, "neighbours": 5, "neighbour_steps": 3,
    }  # fmt: skip
    assert {f.name for f in fields(Protocol)} == {*changed, "name"}, "a new rule needs a line here"
    hashes = {replace(base, **{key: value}).hash for key, value in changed.items()}
    assert len(hashes | {base.hash}) == len(changed) + 1
    assert replace(base, name="other").hash == base.hash


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("sclop", {}, "unknown protocol 'sclop'. Did you mean 'sclip'"),
        ("sclip", {"tempratur": 1}, "unknown protocol setting 'tempratur'. Did you mean 'temperature'"),
        ("sclip", {"background": "magic"}, "unknown protocol background 'magic'"),
        ("sclip", {"stride": 300}, "stride is 300; with windows of 224 it must be 1..224"),
        ("sclip", {"temperature": 0}, "must be positive"),
        ("sclip", {"templates": "openai8"}, "unknown template set 'openai8'"),
    ],
)
def test_mistakes_get_one_line(name: str, values: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Protocol.preset(name, None, **values)


def test_every_preset_describes_itself() -> None:
    for name in Protocol.known_presets():
        for benchmark in [None, *Vocabulary.known_names()]:
            assert len(Protocol.preset(name, benchmark).describe()) >= 4
