"""CorrCLIP: its branches against the released code's scores and by hand, its label maps, and who it stands with.

``released_corrclip.npz`` holds what CorrCLIP@103bc18 answered with DINO's released network, made as the label maps of
:mod:`tests.methods.test_released_path`. The regions are drawn and given to both sides.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import backbones.corrclip
from backbones.corrclip import correlations, merged, region_tokens, spatial_tokens
from common.errors import UserError
from common.weights import weights_hash
from evaluation.label_map import LabelMap
from methods.oracles.corrclip import CorrCLIP, one_label_each
from methods.supervision import Supervision
from methods.training_free import TrainingFree
from reporting.columns import ORACLE
from tests.conftest import needs_shared
from tests.methods.test_proxy_clip import drawn_dino
from tests.methods.test_released_path import agrees, drawn_clip

RECORDED = Path(__file__).with_name("released_corrclip.npz")
NUMBERED = {"224x336": 101, "160x224": 102, "64x112": 104}  # window -> what its regions are drawn from


def drawn_regions(height: int, width: int, seed: int) -> Tensor:
    """Ten regions (H, W) with smooth borders."""
    noise = torch.randn(1, 10, 5, 5, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(noise, (height, width), mode="bilinear", align_corners=False)[0].argmax(0)


def drawn_picture(regions: Tensor, seed: int) -> Tensor:
    """(3, H, W): each region has its colour and its stripes, so that DINO tells some of them apart."""
    draw = torch.Generator().manual_seed(seed)
    colours, stripes = torch.rand(16, 3, generator=draw), torch.rand(16, 8, 3, generator=draw)
    noise = torch.rand(*regions.shape, 3, generator=draw)
    column = torch.arange(regions.shape[1]).expand_as(regions) % 8
    return (0.45 * colours[regions] + 0.45 * stripes[regions, column] + 0.1 * noise).permute(2, 0, 1)


class DrawnRegions(torch.nn.Module):
    def forward(self, image: Tensor) -> Tensor:
        height, width = image.shape[1:]
        return drawn_regions(height, width, {366: 33, 335: 42}[height])  # of the pictures 2007_000033 and 2007_000042


@pytest.fixture(scope="module")
def released_shape(tmp_path_factory: pytest.TempPathFactory) -> CorrCLIP:
    """A CLIP of twelve blocks and a DINO with drawn weights."""
    folder = tmp_path_factory.mktemp("drawn")
    return CorrCLIP(dino=drawn_dino(folder, 8), protocol="corrclip", **drawn_clip(folder, 12)).eval()


@pytest.mark.parametrize("size", NUMBERED)
@torch.no_grad()
def test_scores_of_a_window_are_those_of_the_released_code(
    released_shape: CorrCLIP, size: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rectangles; the second has nothing with the number 0, the third one number alone."""
    released_shape.use_vocabulary("voc21")
    height, width = map(int, size.split("x"))
    regions = drawn_regions(height, width, NUMBERED[size])
    image = drawn_picture(regions, NUMBERED[size] - 100)
    regions = {"160x224": regions + 3, "64x112": 0 * regions}.get(size, regions)
    seen: list[tuple[int, int]] = []

    def spied(numbers: Tensor, features: Tensor) -> Tensor:
        seen.append((len(numbers.unique()), len((found := merged(numbers, features)).unique())))
        return found

    monkeypatch.setattr(backbones.corrclip, "merged", spied)
    scores = released_shape.read(torch.cat([image, regions[None]])[None])
    found = F.interpolate(scores, (height, width), mode="bilinear", align_corners=False)[0, ::6, 8::16, 8::16]
    released = torch.from_numpy(np.load(RECORDED)[f"window/{size}"])
    assert released.std() > 0.01
    torch.testing.assert_close(found, released, atol=2e-6, rtol=0)
    assert seen == [{"224x336": (10, 7), "160x224": (8, 7), "64x112": (1, 1)}[size]]  # some regions are one, not all


@needs_shared
def test_label_maps_are_those_of_the_released_code(released_shape: CorrCLIP, monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to whole grey levels; every region has one label, so that few pixels can differ."""
    monkeypatch.setattr(released_shape, "regions", DrawnRegions())
    agrees(released_shape, "corrclip", 0.999, RECORDED)


def test_regions_that_are_alike_are_one() -> None:
    """Through others, too: a, b and c lie on an arc, a and c further from each other than either from b."""
    angles = torch.tensor([2.5, 0.0, 0.6, 1.2, 2.4])  # of regions 2, 5, 6, 7, 9; the first is what lies in no mask
    regions = torch.tensor([[2, 5, 6], [7, 9, 5]])
    features = torch.stack([angles.cos(), angles.sin()])[:, torch.tensor([[0, 1, 2], [3, 4, 1]])]
    assert 1 - np.cos(0.6) < 0.2 < 1 - np.cos(1.2)
    assert merged(regions, features).tolist() == [[0, 1, 1], [1, 2, 1]]
    assert merged(regions.clamp(max=5), features).tolist() == [[0, 1, 1], [1, 1, 1]]
    assert merged(torch.full((2, 3), 4), features).tolist() == [[0, 0, 0], [0, 0, 0]]


def test_patches_are_mixed_inside_their_region_or_where_they_are_alike() -> None:
    angles = torch.tensor([0.0, 1.5, 0.1, 1.4, 0.3])
    unit = torch.stack([angles.cos(), angles.sin()])
    alike = torch.cos(angles[:, None] - angles)
    mean = float(alike.mean())
    weights = correlations(unit[None, :, None], torch.tensor([[[1, 1, 2, 2, 0]]]))[0]
    near = alike[4] > mean  # the last patch lies in no mask
    assert near.tolist() == [True, False, True, False, True]
    seen = torch.tensor([[1, 1, 0, 0, 0], [1, 1, 0, 0, 0], [0, 0, 1, 1, 0], [0, 0, 1, 1, 0], [0, 0, 0, 0, 1]]).bool()
    seen[4] |= near
    seen[:, 4] |= near
    torch.testing.assert_close(weights, (4 * alike).masked_fill(~seen, float("-inf")).softmax(1))
    alone = correlations(torch.ones(1, 4, 2, 2) / 2, torch.zeros(1, 2, 2, dtype=torch.int64))
    assert torch.equal(alone[0], torch.eye(4))  # nothing is more alike than usual


@torch.no_grad()
def test_a_region_that_is_the_whole_picture_has_its_class_token() -> None:
    clip: Any = TrainingFree("clip").backbone
    images = torch.rand(2, 3, 32, 48)
    layers = clip.layers(images, "bicubic")
    regions = torch.zeros(2, 24, dtype=torch.int64)
    regions[1, 12:] = 1
    found = region_tokens(clip.blocks, layers, regions)
    expected = clip.encode(images, "bicubic")[0][:, 0]
    torch.testing.assert_close(found[0, 0], expected[0], atol=1e-5, rtol=1e-4)
    assert found.shape[1] == 2
    assert all((found[1, r] - expected[1]).abs().max() > 1e-3 for r in range(2))
    changed = clip.layers(torch.cat([images[1:, :, :16], torch.rand(1, 3, 16, 48)], 2), "bicubic")
    assert not torch.allclose(region_tokens(clip.blocks, changed, regions[1:])[0, 0], found[1, 0])  # patches see each other


@pytest.mark.parametrize(("depth", "first", "last"), [(12, 6, 10), (24, 11, 22), (32, 3, 30), (7, 3, 5), (3, 1, 1), (2, 1, 1)])
def test_the_spatial_branch_ends_two_blocks_before_the_last(depth: int, first: int, last: int) -> None:
    layers: Any = type("Layers", (), {"tokens": list(range(1, depth))})
    found = spatial_tokens(layers)
    assert (found[0], found[-1]) == (first, last)


def test_each_region_takes_its_most_frequent_label() -> None:
    labels = torch.tensor([[1, 1, 2], [2, 2, 5], [5, 3, 3]], dtype=torch.uint8)
    regions = torch.tensor([[7, 7, 7], [7, 4, 4], [4, 9, 9]])  # 4 is the least: in no mask
    found = one_label_each(LabelMap(labels, torch.full((3, 3), 0.6)), regions)
    assert found.labels.tolist() == [[1, 1, 1], [1, 2, 5], [5, 3, 3]]  # of 1 and 2, as often, the least
    assert found.labels.dtype == torch.uint8
    torch.testing.assert_close(found.score, torch.tensor([[0.3, 0.3, 0.3], [0.3, 0.6, 0.6], [0.6, 0.6, 0.6]]))
    assert one_label_each(LabelMap(labels, None), regions).score is None


@torch.no_grad()
def test_regions_are_found_once_in_a_picture_of_its_own_size(monkeypatch: pytest.MonkeyPatch) -> None:
    model, seen = CorrCLIP(), []
    model.use_vocabulary("shapes13")
    regions = torch.nn.Module()
    regions.forward = lambda image: seen.append(tuple(image.shape)) or torch.arange(90)[:, None].expand(90, 200) // 30
    monkeypatch.setattr(model, "regions", regions)
    labels = model.segment(torch.randint(0, 256, (3, 90, 200), dtype=torch.uint8)).labels
    assert seen == [(3, 90, 200)]
    assert all(len(labels[rows].unique()) == 1 for rows in (slice(30, 60), slice(60, 90)))


def test_it_stands_outside_the_ranking_and_its_networks_are_in_the_hash() -> None:
    assert CorrCLIP.sees is Supervision.NAMELESS
    assert CorrCLIP.sees.value == f"masks without names {ORACLE}"
    model, other = CorrCLIP(), CorrCLIP()
    before = weights_hash(model)
    assert before == weights_hash(other)
    other.regions.model.no_memory_embedding.data.add_(1)
    assert weights_hash(other) != before


def test_what_cannot_be_read_is_one_line() -> None:
    with pytest.raises(UserError, match=r"'facebook/sam2-hiera-large' needs a pinned .* --model.sam_revision COMMIT"):
        CorrCLIP(sam="facebook/sam2-hiera-large")
    with pytest.raises(UserError, match="'no_sam' is neither a folder that is there nor a repository"):
        CorrCLIP(sam="no_sam")
    with pytest.raises(UserError, match="CorrCLIP reads parts of a CLIP's ViT, which tower"):
        CorrCLIP(clip="RN50", pretrained=None)
