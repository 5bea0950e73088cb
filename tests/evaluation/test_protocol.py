import pytest
import yaml

from common.errors import UserError
from evaluation import Protocol, Vocabulary
from evaluation.protocol_in_words import in_words
from evaluation.rules import RULES, ProtocolValues, settings
from tests.conftest import SHARED, needs_shared

CHANGED = {
    "short_side": 448, "max_long_side": 1024, "crop": 448, "stride": 56, "templates": "simple", "ensemble": "raw",
    "wording": "sclip", "synonyms": "mean", "temperature": 50.0, "activation": "sigmoid", "background": "words",
    "background_value": 0.1, "area_threshold": 0.1, "position_resize": "bilinear", "refine": "pamr",
    "upsampling": "twice", "logit_bias": -2.5, "antialias": True,
    "pamr_dilations": [1, 2], "pamr_iterations": 5, "gate_classes": 5, "neighbours": 5, "neighbour_steps": 3,
}  # fmt: skip
WITH = {  # what else must be set for a rule to do something
    "upsampling": {"crop": None, "stride": None},
    "logit_bias": {"activation": "sigmoid"},
    "background_value": {"background": "threshold"},
    "pamr_dilations": {"refine": "pamr"},
    "pamr_iterations": {"refine": "pamr"},
    "neighbours": {"refine": "neighbours"},
    "neighbour_steps": {"refine": "neighbours"},
}


def test_a_preset_takes_the_benchmarks_own_values() -> None:
    voc, stuff = Protocol.preset("sclip", "voc21").decision, Protocol.preset("sclip", "coco_stuff171")
    assert (voc.temperature, voc.background, voc.background_value, voc.area_threshold) == (65, "words", 0.1, 0.1)
    assert (stuff.windows.short_side, stuff.decision.temperature, stuff.decision.background) == (448, 40, "none")
    assert Protocol.preset("sclip", "voc21", temperature=30).decision.temperature == 30


@needs_shared
def test_templates_are_the_published_ones() -> None:
    facts = yaml.safe_load((SHARED / "facts" / "datasets.yaml").read_text())
    ours = {name: prompts for name, prompts in facts["prompts"].items() if name in settings("templates.yaml")}
    assert set(ours) >= {"simple", "tcl_custom", "openai80"}
    for name, templates in ours.items():
        assert Protocol().changed(templates=name).prompt.template_list == templates


def test_the_hash_covers_every_rule_but_not_the_name() -> None:
    assert set(CHANGED) == RULES == set(ProtocolValues.__annotations__), "a new rule needs a line here"
    for rule, value in CHANGED.items():
        base = Protocol().changed(**WITH.get(rule, {}))
        assert base.changed(**{rule: value}).hash != base.hash, rule
        assert rule in base.in_effect()
    assert Protocol(name="other").hash == Protocol().hash


def test_a_rule_that_does_nothing_is_not_hashed() -> None:
    for rule in WITH:
        assert Protocol().changed(**{rule: CHANGED[rule]}).hash == Protocol().hash
    single = Protocol().changed(templates="plain")
    assert single.changed(ensemble="raw").hash == single.hash
    whole = Protocol().changed(crop=None, stride=None)
    assert whole.changed(stride=7).hash == whole.hash


def test_the_hash_and_the_words_are_those_of_the_followed_rules() -> None:
    follows = RULES - {"templates", "ensemble", "synonyms", "temperature"}
    plain, changed = Protocol(), Protocol().changed(templates="simple", temperature=3)
    assert plain.hash != changed.hash
    assert plain.followed_by("M", follows, {}).hash == changed.followed_by("M", follows, {}).hash
    assert in_words(plain.followed_by("M", follows, {})) == in_words(changed.followed_by("M", follows, {}))
    assert plain.followed_by("M", follows, {}).column_hash == plain.hash != changed.followed_by("M", follows, {}).column_hash
    assert "template" in " ".join(in_words(plain))
    assert "template" not in " ".join(in_words(plain.followed_by("M", follows, {})))


def test_asking_for_what_would_be_ignored_is_an_error() -> None:
    with pytest.raises(UserError, match="IFSeg does not follow the protocol's templates, so the value would be ignored"):
        Protocol().followed_by("IFSeg", RULES - {"templates"}, {"templates": "plain"})
    for rule in WITH:
        with pytest.raises(UserError, match=f"the protocol's {rule} would be ignored: it needs"):
            Protocol().changed(**{rule: CHANGED[rule]}).followed_by("M", RULES, {rule: CHANGED[rule]})
    Protocol().changed(crop=None, stride=None).followed_by("M", RULES, {"crop": None, "stride": None})


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("sclop", {}, "unknown protocol 'sclop'. Did you mean 'sclip'"),
        ("sclip", {"tempratur": 1}, "unknown protocol setting 'tempratur'. Did you mean 'temperature'"),
        ("sclip", {"background": "magic"}, "unknown protocol background 'magic'"),
        ("sclip", {"stride": 300}, "stride is 300; with windows of 224 it must be 1..224"),
        ("sclip", {"temperature": 0}, "protocol temperature is 0; it must be a number from 1e-06 up"),
        ("sclip", {"temperature": float("nan")}, "protocol temperature is nan"),
        ("sclip", {"temperature": "hot"}, "protocol temperature is 'hot'; it must be a number"),
        ("sclip", {"crop": 64.5}, "protocol crop is 64.5; it must be a whole number from 1 up"),
        ("sclip", {"pamr_dilations": 8}, "protocol pamr_dilations is 8; it must be a list of whole numbers"),
        ("sclip", {"background_value": True}, "protocol background_value is True; it must be a number from 0 to 1"),
        ("sclip", {"neighbours": 0}, "protocol neighbours is 0; it must be a whole number from 1 up"),
        ("sclip", {"short_side": None}, "protocol short_side is None"),
        ("sclip", {"wording": 8}, "protocol wording is 8; it must be a name"),
        ("sclip", {"templates": "openai8"}, "unknown template set 'openai8'"),
    ],
)
def test_mistakes_get_one_line(name: str, values: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Protocol.preset(name, None, **values)


def test_every_preset_describes_itself() -> None:
    for name in Protocol.known_presets():
        for benchmark in [None, *Vocabulary.known_names()]:
            assert len(in_words(Protocol.preset(name, benchmark))) >= 4
