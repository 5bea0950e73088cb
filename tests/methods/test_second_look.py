"""FreeSeg's second look: what a region looks like alone, which class keeps it, and how sure a class must be."""

from dataclasses import asdict
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from common.errors import UserError
from evaluation import Vocabulary
from methods import METHODS
from methods.freeseg.mining import MiningRules, mine
from methods.freeseg.second_look import ENOUGH, GREY, Evidence, SecondLook, Verdicts, alone, regions_of


class ColourTower(nn.Module):
    """Says how much of a picture is red, green and blue beyond grey."""

    native_side = 16

    def embed_image(self, images: Tensor) -> Tensor:
        return (images - GREY).clamp_min(0).mean((2, 3))


def test_a_region_is_shown_alone_in_the_middle_of_grey() -> None:
    image = torch.rand(3, 20, 30)
    inside = torch.zeros(20, 30, dtype=torch.bool)
    inside[2:10, 4:20] = True
    image[:, inside] = torch.tensor([0.9, 0.1, 0.3])[:, None]
    seen = alone(image, inside, 20)  # 8 x 16 pixels in a square of 20
    expected = torch.full((3, 20, 20), GREY)
    expected[:, 6:14, 2:18] = torch.tensor([0.9, 0.1, 0.3])[:, None, None]
    torch.testing.assert_close(seen, expected)
    assert alone(image, inside, 64).shape == (3, 64, 64)
    inside[9, 4:20:2] = False  # what is in the box and not inside is grey as well
    assert (alone(image, inside, 20)[:, 13, 2:18:2] == GREY).all()


def test_regions_are_connected_and_not_tiny() -> None:
    maps = torch.zeros(2, 10, 20)
    maps[0, :2, :3], maps[0, 6:, 10:], maps[0, 0, 19], maps[1] = 0.6, 0.5, 1.0, 0.4
    found = regions_of(maps, 0.5)
    assert [(position, int(inside.sum())) for position, inside in found] == [(0, 6), (0, 40)]  # one pixel is no hundredth
    assert torch.equal(found[0][1] | found[1][1], (maps[0] >= 0.5) & ~(maps[0] == 1))
    assert regions_of(maps, 2.0) == []


@given(st.integers(0, 10**6), st.floats(0.1, 10), st.floats(-3, 3))
def test_neither_scale_nor_offset_of_a_class_decides(seed: int, by: float, plus: float) -> None:
    random = torch.Generator().manual_seed(seed)
    seen = [_random_evidence(random) for _ in range(30)]
    fainter = [
        Evidence(
            one.cosines * torch.tensor([1, by, 1])[None, :, None] + torch.tensor([0, plus, 0])[None, :, None], one.found, one.of
        )
        for one in seen
    ]
    verdicts, of_fainter = Verdicts.over(seen), Verdicts.over(fainter)
    for one, other in zip(seen, fainter, strict=True):
        torch.testing.assert_close(verdicts.leads(one), of_fainter.leads(other), atol=1e-3, rtol=1e-3)


def _random_evidence(random: torch.Generator) -> Evidence:
    regions = int(torch.randint(0, 4, (), generator=random))
    cosines = torch.rand(2, 3, regions, generator=random, dtype=torch.float64)
    return Evidence(cosines, torch.tensor([0, 1, 2]), torch.randint(0, 3, (regions,), generator=random))


def test_a_class_keeps_the_regions_where_it_leads() -> None:
    plain = Verdicts(torch.zeros(6), torch.ones(6), torch.tensor([0.1, 0.2, 0.3]))
    cosines = torch.tensor([[[0.9, 0.5, 0.5, 0.1], [0.5, 0.6, 0.5, 0.2], [0.0, 0.0, 0.9, 9.0]]]).repeat(2, 1, 1) / 2
    asked = Evidence(cosines, torch.tensor([0, 1]), torch.tensor([0, 1, 0, 1]))  # the third class is not in question
    torch.testing.assert_close(plain.leads(asked), torch.tensor([0.4, 0.1, 0.0, 0.1]))
    assert plain.kept(asked).tolist() == [True, False, False, False]
    all_three = Evidence(cosines, torch.tensor([0, 1, 2]), torch.tensor([0, 1, 2, 1]))
    torch.testing.assert_close(plain.leads(all_three), torch.tensor([0.4, 0.1, 0.4, -8.8]))
    assert plain.kept(all_three).tolist() == [True, False, True, False]
    alone = Evidence(cosines[:, :, :1], torch.tensor([2]), torch.tensor([2]))
    assert plain.kept(alone).all()  # nothing else is in question


def test_how_sure_a_class_must_be_is_measured() -> None:
    """Four classes lead by much; the two others, hardly told apart, keep the surer half of what they lead in."""
    random, classes = torch.Generator().manual_seed(0), torch.arange(6)
    of = torch.arange(600) % 6
    cosines = 0.01 * torch.rand(2, 6, 600, generator=random) + (of == classes[:, None])
    cosines[:, 4:, of >= 4] = 1 + 0.01 * torch.rand(2, 2, 200, generator=random)
    seen = [Evidence(cosines[:, :, i : i + 20], classes, of[i : i + 20]) for i in range(0, 600, 20)]
    verdicts = Verdicts.over(seen)
    everything = Evidence(cosines, classes, of)
    leads, kept = verdicts.leads(everything), verdicts.kept(everything)
    torch.testing.assert_close(verdicts.enough[:4], torch.full((4,), ENOUGH))
    assert kept[of < 4].all()
    for k in (4, 5):
        leading = (of == k) & (leads >= 0)
        assert -1e-4 < float(verdicts.enough[k]) < ENOUGH / 10
        assert abs(int(kept[of == k].sum()) - int(leading.sum()) / 2) <= 1
        assert leads[kept & (of == k)].min() > leads[leading & ~kept].max()
    never = Evidence(cosines[:, :, of == 0], classes, of[of == 0])
    assert torch.equal(Verdicts.over([never]).enough[1:], torch.full((5,), ENOUGH))


def test_the_tower_decides_between_maps_that_are_high_on_the_same_thing() -> None:
    """Of a red thing on a green ground both "red" and "blue" are sure; the picture has more green than anything."""
    image = torch.zeros(3, 32, 32)
    image[1] = 1.0
    image[:, 8:24, 8:24] = torch.tensor([1.0, 0.0, 0.0])[:, None, None]
    maps = torch.zeros(1, 3, 32, 32)
    maps[0, 0, 8:24, 8:24], maps[0, 2, 8:24, 8:24] = 0.8, 1.0
    maps[0, 1] = 1 - maps[0, 2]
    patches = torch.full((3, 32, 32), 0.1)
    look = SecondLook(ColourTower(), torch.eye(3), torch.tensor([3, 4, 5]), foreground=0.5, batch=2)  # type: ignore[arg-type]
    verdicts = Verdicts(torch.zeros(6), torch.ones(6), torch.full((3,), 0.05))
    rules = MiningRules(span="collection", seen_in="regions", positive=0.1, negative=0.01, foreground=0.5, margin=0.1)

    def confirmed(i: int, few: Tensor, found: Tensor) -> Tensor:
        return look.confirmed(verdicts, image, patches, few, found)

    shown, classes = torch.full((1, 3), 0.5), torch.tensor([3, 4, 5])
    (by_map,) = mine(maps, shown, image[None], rules, classes)
    (seen,) = mine(maps, shown, image[None], rules, classes, confirmed=confirmed)
    assert set(by_map.labels[8:24, 8:24].unique().tolist()) == {5}
    assert set(seen.labels[8:24, 8:24].unique().tolist()) == {3}
    assert set(seen.labels[:8].unique().tolist()) == {4}
    assert seen.active.nonzero()[:, 0].tolist() == [3, 4, 5]  # blue was in question, and is not there


def test_what_is_not_kept_is_no_background() -> None:
    maps = torch.tensor([0.1, 0.4, 0.8]).view(1, 1, 1, 3)
    rules = MiningRules(span="collection", seen_in="regions", foreground=0.5, background=0.2)
    shown, classes, image = torch.ones(1, 1), torch.tensor([3]), torch.zeros(1, 3, 1, 3)

    def labels(confirmed: Any) -> list[int]:
        return mine(maps, shown, image, rules, classes, 0, confirmed)[0].labels[0].tolist()

    assert labels(None) == [0, 255, 3]
    assert labels(lambda i, few, found: few * (few > 0.5)) == [0, 255, 3]
    assert labels(lambda i, few, found: few * 0) == [0, 255, 255]


def test_synonyms_and_batches_change_nothing() -> None:
    image, patches = torch.rand(3, 32, 32), torch.rand(2, 4, 4)
    regions = [(0, torch.rand(32, 32) > 0.5), (1, torch.rand(32, 32) > 0.3), (0, torch.ones(32, 32, dtype=torch.bool))]
    text, found = torch.eye(3)[:2], torch.tensor([0, 1])
    tower: Any = ColourTower()
    plain = SecondLook(tower, text, torch.tensor([4, 7]), 0.5, 64).evidence(image, patches, found, regions)
    for words, of, batch in ((text[[0, 0, 1]], [4, 4, 7], 64), (text, [4, 7], 2)):
        same = SecondLook(tower, words, torch.tensor(of), 0.5, batch).evidence(image, patches, found, regions)
        torch.testing.assert_close(asdict(same), asdict(plain))
    assert plain.of.tolist() == [0, 1, 0]
    large = torch.nn.functional.interpolate(patches[None], (32, 32), mode="bilinear", align_corners=False)[0]
    torch.testing.assert_close(plain.cosines[1, :, 1], large[:, regions[1][1]].mean(1))
    nothing = SecondLook(tower, text, torch.tensor([4, 7]), 0.5, 64).evidence(image, patches, found, [])
    assert nothing.cosines.shape == (2, 2, 0)
    assert Verdicts.over([nothing, plain]).kept(nothing).shape == (0,)
    assert Verdicts.over([nothing]).kept(nothing).shape == (0,)


def test_regions_are_compared_over_a_collection_alone() -> None:
    for span in ("picture", "none"):
        with pytest.raises(UserError, match=f"seen_in regions compares over a collection, span is {span}"):
            MiningRules(seen_in="regions", span=span)  # type: ignore[arg-type]


def test_masks_of_a_method_are_those_of_its_tower_s_second_look() -> None:
    rules = {"span": "collection", "seen_in": "regions", "positive": 0.015, "negative": 0.004, "foreground": 0.5, "margin": 0.2}
    model: Any = METHODS["FreeSeg"](mining=rules, masks=None, rule="surgery", views=[{"short_side": 64}])
    model.use_vocabulary(Vocabulary.load("shapes16"))
    pictures = [_picture(i) for i in range(24)]
    batches = [torch.stack(pictures[:14]), torch.stack(pictures[14:])]
    model.measure_reach(lambda: batches)
    assert model.verdicts.enough.shape == (16,)
    model.measure_reach(lambda: batches, "a second look at 24 pictures")
    kept = model.verdicts
    model.measure_reach(lambda: (pytest.fail("a picture was read") for _ in batches), "a second look at 24 pictures")  # type: ignore[misc]
    assert torch.equal(model.verdicts.enough, kept.enough)
    mined = model.mine(torch.stack(pictures))
    sure, model.verdicts = model.verdicts, None
    by_map = model.mine(torch.stack(pictures))
    labelled = [torch.stack([one.labels != 255 for one in some]) for some in (mined, by_map)]
    assert int((labelled[1] & ~labelled[0]).sum()) > 0  # what nobody keeps
    model.verdicts = Verdicts(sure.low, sure.high, torch.full((16,), 1e9))
    assert all((one.labels == 255).all() for one in model.mine(torch.stack(pictures)) if one.active.sum() > 1)


def _picture(index: int) -> Tensor:
    from datamodules.shapes.datamodule import Shapes, ShapesPictures

    found: Tensor = ShapesPictures(Shapes("shapes16", train_pictures=24))[0, index]["image"]
    return found
