import hashlib
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from common.errors import UserError
from evaluation import Protocol, Vocabulary
from tests.conftest import SHARED, needs_shared

words = st.text("abcdefgh xyz-", min_size=1, max_size=8).map(str.strip).filter(lambda w: w and w != "background")


@needs_shared
@pytest.mark.parametrize("name", ["voc21", "voc20", "context60", "context59", "coco_object", "coco_stuff171", "coco_stuff27"])
def test_label_spaces_are_the_fact_sheets(name: str) -> None:
    facts = yaml.safe_load((SHARED / "facts" / "datasets.yaml").read_text())["datasets"][name]
    vocabulary = Vocabulary.load(name)
    assert list(vocabulary.names) == facts["names"]
    assert vocabulary.background == facts["background_index"]
    if isinstance(facts.get("prompt_names"), list):
        assert [queries[0] for queries in vocabulary.worded("groupvit").queries] == facts["prompt_names"]
    if "sclip_query_lines" in facts:
        assert [list(queries) for queries in vocabulary.worded("sclip").queries] == facts["sclip_query_lines"]


@pytest.mark.parametrize(
    ("name", "words", "digest"),
    [
        ("coco_unseen15", 15, "fd34f6702c6f401d01181b6176d032bae70c9af112ceb0b3f8c797169ec59afb"),
        ("ade150", 150, "22babeee73b86d93ca967a5eb139bba6c6aaa80e7ab61d4f240a4c6cde73c733"),
        ("coco_stuff171", 171, "c37cf07d9cfb7f2406fca3efb60172b6eed2b9ee4dcc21c19721dfa33658323f"),
    ],
)
def test_ifseg_asks_the_released_lists(name: str, words: int, digest: str) -> None:
    """SHA-256 of ``category_list`` in alinlab/ifseg@77c075c, run_scripts/IFSeg/{coco_unseen,ade,coco_fine}.sh."""
    wording = Protocol.preset("ifseg", name).prompt.wording
    assert wording in Vocabulary.load(name).wordings
    asked = [word for queries in Vocabulary.load(name, wording).queries for word in queries]
    assert len(asked) == words
    assert hashlib.sha256(", ".join(asked).encode()).hexdigest() == digest


@needs_shared
def test_the_two_context_orders_name_the_same_pixels() -> None:
    """A raw id has the same name in both orders, at different positions: a mismatch would be silent nonsense."""
    ours, official = Vocabulary.load("context60"), Vocabulary.load("context60_official")
    assert ours.names != official.names
    assert ours.label_ids is not None
    assert official.label_ids is not None
    for raw, train_id in ours.label_ids.items():
        assert ours.names[train_id] == official.names[official.label_ids[raw]]


def test_mask_values_become_train_ids() -> None:
    raw = np.array([[0, 1], [20, 255]], np.uint8)
    assert Vocabulary.load("voc21").to_train_ids(raw).tolist() == [[0, 1], [20, 255]]
    assert Vocabulary.load("voc20").to_train_ids(raw).tolist() == [[255, 0], [19, 255]]
    coco = np.array([[0, 90, 91, 255, 12]], np.uint8)
    assert Vocabulary.load("coco_object").to_train_ids(coco).tolist() == [[1, 0, 0, 0, 12]]
    assert Vocabulary.load("coco_stuff171").to_train_ids(coco).tolist() == [[0, 255, 80, 255, 11]]
    with pytest.raises(UserError, match="mask value 21 is not in the label space 'voc21'"):
        Vocabulary.load("voc21").to_train_ids(np.array([[21]], np.uint8))


@given(st.lists(st.lists(words, min_size=1, max_size=3), min_size=1, max_size=6, unique_by=lambda c: c[0]))
def test_free_text_round_trip(classes: list[list[str]]) -> None:
    parsed = Vocabulary.parse(" ; ".join(" , ".join(c) for c in classes) + ";")
    assert [list(queries) for queries in parsed.queries] == classes
    asked, class_of_word = parsed.words_and_classes(with_background=False)
    assert asked == [word for c in classes for word in c]
    assert class_of_word == [k for k, c in enumerate(classes) for _ in c]


def test_background_can_be_named_in_free_text() -> None:
    vocabulary = Vocabulary.parse("cat; background, sky; dog")
    assert vocabulary.background == 1
    assert vocabulary.words_and_classes(with_background=False)[0] == ["cat", "dog"]
    assert vocabulary.words_and_classes(with_background=True)[0] == ["cat", "background", "sky", "dog"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "class list is empty"),
        (" ; ;", "class list is empty"),
        ("cat; ; dog", "an empty class"),
        ("cat; dog, ; sky", "an empty class or synonym"),
        ("cat; dog; cat", "duplicate classes .* cat"),
        ("missing_file.txt", "'missing_file.txt' does not exist"),
    ],
)
def test_bad_free_text_gets_one_line(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Vocabulary.parse(text)


def test_unknown_name_answers_with_the_nearest() -> None:
    with pytest.raises(UserError, match=r"unknown vocabulary 'voc2l'. Did you mean 'voc21'\? Known: .*coco_object"):
        Vocabulary.load("voc2l")


@needs_shared
def test_voc_keeps_its_colours() -> None:
    facts = yaml.safe_load((SHARED / "facts" / "datasets.yaml").read_text())["datasets"]["voc21"]
    assert Vocabulary.load("voc21").palette.tolist() == facts["voc_colormap"]
    assert Vocabulary.load("voc20").palette.sum(1).min() != 0  # black is for background only


def test_every_shipped_vocabulary_is_whole() -> None:
    for name in Vocabulary.known_names():
        vocabulary = Vocabulary.load(name)
        assert vocabulary.title
        ids = set((vocabulary.label_ids or {}).values()) | {vocabulary.other_labels}
        assert set(range(vocabulary.num_classes)) <= ids, f"{name}: a class that no label value maps to"
        assert len({tuple(c) for c in vocabulary.palette.tolist()}) == vocabulary.num_classes


def test_a_class_file_may_have_a_bom_blank_lines_and_comments(tmp_path: Path) -> None:
    file = tmp_path / "classes.txt"
    file.write_bytes(b"\xef\xbb\xbf# mine\r\ncat, kitten\r\n\r\n  # not: dog\r\nsky\r\n")
    vocabulary = Vocabulary.named(str(file))
    assert vocabulary.names == ("cat", "sky")
    assert vocabulary.queries == (("cat", "kitten"), ("sky",))
    file.write_text("# nothing else\n")
    with pytest.raises(UserError, match="class list is empty"):
        Vocabulary.named(str(file))
