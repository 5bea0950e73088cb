import hashlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from datamodules import DATAMODULES
from datamodules.shapes.datamodule import SIZES, world

Shapes = DATAMODULES["Shapes"]


def test_no_single_cue_names_an_object() -> None:
    """A Latin square: every cue occurs in four names, and two names share one cue at most."""
    for cue in range(3):
        assert np.bincount([cues[cue] for cues in world.CUES]).tolist() == [4, 4, 4, 4]
        assert sorted(world.CUES[i][cue] for i in world.HELD_OUT) == [0, 1, 2, 3]
    for a in world.CUES:
        assert all(sum(x == y for x, y in zip(a, b, strict=True)) <= 1 for b in world.CUES if b != a)


def test_the_world_is_the_same_everywhere() -> None:
    """Golden pictures: results of different machines and years are about the same pixels."""
    digests = []
    for split, index in (("train", 0), ("val", 3), ("test", 7)):
        scene = world.render(world.random_source(0, split, index), 96, 128)
        digests.append(hashlib.sha256(scene.world_ids.tobytes()).hexdigest()[:8])
    assert digests == ["38047f6b", "fbc40fa3", "12cfba19"]


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10**6), st.sampled_from(["train", "val", "test"]))
def test_pictures_depend_on_seed_split_and_index_alone(index: int, split: str) -> None:
    a, b = (world.render(world.random_source(1, split, index), 40, 50) for _ in range(2))
    c = world.render(world.random_source(2, split, index), 40, 50)
    assert np.array_equal(a.image, b.image)
    assert np.array_equal(a.world_ids, b.world_ids)
    assert not np.array_equal(a.image, c.image)


def test_held_out_names_are_in_no_training_picture_and_no_caption() -> None:
    data = Shapes(train_pictures=400, num_workers=0).train_dataloader().dataset
    held_out = {world.NAMES[i] for i in world.HELD_OUT}
    for index in range(400):
        item = data[0, index]
        assert not item["visible"][list(world.HELD_OUT)].any()
        assert not any(name in item["caption"] for name in held_out)


def test_captions_say_what_is_visible() -> None:
    data = Shapes(train_pictures=200, num_workers=0).train_dataloader().dataset
    shorter = 0
    for index in range(200):
        item = data[0, index]
        scene, _ = data._scene(index)
        shares = np.bincount(scene.world_ids.ravel(), minlength=20) / scene.world_ids.size
        assert item["visible"].tolist() == (shares >= 0.03).tolist()
        assert not (item["said"] & ~item["visible"]).any()
        assert [world.WORLD_NAMES[i] in item["caption"] for i in range(20)] == item["said"].tolist()
        shorter += int(item["said"].sum() < item["visible"].sum())
    assert shorter > 60


def test_pictures_hold_several_objects_and_grounds() -> None:
    objects, grounds, foreground = [], [], []
    for index in range(60):
        ids = world.render(world.random_source(0, "test", index), *SIZES[index % 4]).world_ids
        present = np.unique(ids)
        objects.append((present < 16).sum())
        grounds.append((present >= 16).sum())
        foreground.append((ids < 16).mean())
    assert np.mean(objects) > 2.5
    assert np.mean([g >= 2 for g in grounds]) > 0.9
    assert 0.2 < np.mean(foreground) < 0.4


@pytest.mark.parametrize("vocabulary", Shapes.label_spaces)
def test_label_spaces(vocabulary: str) -> None:
    data = Shapes(vocabulary, pictures=8, num_workers=0)
    masks = torch.cat([data.benchmark("test")[i]["mask"].flatten() for i in range(8)]).unique().tolist()
    assert set(masks) - {255} <= set(range(data.vocabulary.num_classes))
    assert (255 in masks) == (vocabulary == "shapes12")


def test_shapes_of_one_size_are_distinguishable() -> None:
    """Areas are about equal, so that size does not name a shape."""
    v, u = np.meshgrid(np.linspace(-1.3, 1.3, 200), np.linspace(-1.3, 1.3, 200))
    areas = [world._inside(shape, u.astype(np.float32), v.astype(np.float32)).mean() for shape in range(4)]
    assert max(areas) / min(areas) < 2.5
