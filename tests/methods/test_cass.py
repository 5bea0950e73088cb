"""CASS: its graph and its texts against their formulas written out, its numbers and label maps against the released ones.

``released_cass.npz`` holds what CASS@228ecdd answered, made as those of :mod:`tests.methods.test_released_path`.
"""

import json
import re
from itertools import permutations
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from backbones.cass import complementary, eigen, joint_graph, spectrum
from backbones.clip import CHECKPOINTS
from common.errors import UserError
from evaluation.windows import WindowScores, cut
from methods.cass import CASS, RELEASED, groups_of, turned
from tests.conftest import ROOT, needs_shared
from tests.methods.test_proxy_clip import drawn_dino
from tests.methods.test_released_path import agrees, drawn_clip

RECORDED = Path(__file__).with_name("released_cass.npz")


@needs_shared
def test_label_maps_are_those_of_the_released_code(tmp_path: Path) -> None:
    """Up to whole grey levels, also in what DINO sees, and to the approximation of the strongest eigenvectors, drawn there.

    The least of the four maps agrees on .990 of the pixels on one kind of CPU and on .989 on another; with the pairs of heads
    turned round .917, with DINO's released slip of .225 for .255 mended .954.
    """
    dino = drawn_dino(tmp_path, 8, hidden_size=128, intermediate_size=512)
    agrees(CASS(dino=dino, protocol="cass", **drawn_clip(tmp_path, 3)), "cass", 0.985, RECORDED)


def drawn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64)


def stretched(x: Tensor, low: float, high: float) -> Tensor:
    return (x - x.min()) / (x.max() - x.min()) * (high - low) + low


@pytest.mark.parametrize("eigenscaling", [False, True])
def test_each_head_is_joined_by_the_one_least_like_it(eigenscaling: bool) -> None:
    steep = [torch.tensor(of)[:, None, None] for of in ([0.51, 0.45, 0.25, 0.16], [0.31, 0.24, 0.47, 0.18])]
    own, theirs = (
        drawn(1, 4, 30, d)[..., :24] * torch.exp(-s * torch.arange(24)) for s, d in zip(steep, (24, 25), strict=True)
    )
    graphs = [one[0] @ one[0].mT for one in (own / 24**0.25, theirs)]
    shares = [torch.linalg.eigvalsh(graph).flip(1)[:, :20] for graph in graphs]
    mine, other = (share / share.sum(1, keepdim=True) for share in shares)
    apart = [[float((a - b).abs().sum()) for b in mine] for a in other]
    *_, second, best = sorted(permutations(range(4)), key=lambda order: sum(apart[i][j] for i, j in enumerate(order)))
    assert sum(apart[i][j] for i, j in enumerate(best)) > 1e-4 + sum(apart[i][j] for i, j in enumerate(second))
    assert any(best[j] != i for i, j in enumerate(best))  # else which network's head is i would not show
    expected = []
    for i, j in enumerate(best):
        u, s, v = torch.linalg.svd(graphs[1][j])
        s = stretched(s[:10], 0.5 * s[9], 1.5 * s[0]) if eigenscaling else s[:10]
        low = (u[:, :10] * s) @ v[:10]
        low = stretched(low.fill_diagonal_(0), graphs[0][i].min(), graphs[0][i].max())
        expected.append((10 * apart[i][j] * low + graphs[0][i]) / (10 * apart[i][j] + 1))
    torch.testing.assert_close(joint_graph(own, theirs, eigenscaling)[0], torch.stack(expected))


def test_narrow_heads_and_few_patches_are_compared_as_if_they_had_zeros() -> None:
    pairs, distance = complementary(*(spectrum(eigen(drawn(1, 2, 3, d))[0]) for d in (32, 2)))
    assert sorted(pairs[0].tolist()) == [0, 1]
    assert distance.isfinite().all()
    assert joint_graph(drawn(1, 2, 1, 8), drawn(1, 2, 1, 8), True).isfinite().all()


def test_the_likeliest_word_of_a_group_turns_to_its_two_nearest_patches() -> None:
    text = F.normalize(torch.tensor([[1.0, 0, 0], [0.99, 0.1, 0], [0, 0, 1.0]]), dim=1)
    groups = groups_of(text, 0.1)
    assert sorted(group.tolist() for group in groups) == [[0, 1], [2]]
    assert len(groups_of(text, 0.001)) == 3
    assert groups_of(text[:1], 0.1)[0].tolist() == [0]
    patches = F.normalize(torch.tensor([[0.9, 0.4, 0], [0.8, 0, 0.6], [-1, 0, 0], [0, 1, 0.2]]), dim=1).T[None]
    found = turned(text, groups, torch.tensor([[0.2, 0.3, 0.1]]), patches, 0.25)[0]
    assert torch.equal(found[0], text[0])
    mean = F.normalize((patches[0, :, 0] + patches[0, :, 1]) / 2, dim=0)
    torch.testing.assert_close(found[1], F.normalize(0.75 * text[1] + 0.25 * mean, dim=0))


@torch.no_grad()
def test_every_window_knows_the_whole_picture() -> None:
    """The prior is the whole picture's, but for Cityscapes, and joins the scores of every window."""
    values = {"short_side": 64, "crop": 64, "stride": 32}
    model = CASS(protocol_values=values, prior_share=1.0)
    model.use_vocabulary("shapes16")
    image = torch.rand(3, 64, 96)
    (found,) = model.score_images([image])
    prior = model.whole(image[None]) @ model.text_QC.T
    torch.testing.assert_close(found.scores, prior[..., None, None].expand_as(found.scores))
    model.use_vocabulary("cityscapes")
    (found,) = model.score_images([image])
    assert found.scores.shape[0] == 2
    torch.testing.assert_close(found.scores[:, :, 0, 0], model.whole(cut(found.image, found.boxes)) @ model.text_QC.T)


@torch.no_grad()
def test_each_number_changes_the_scores() -> None:
    image, found = torch.rand(3, 64, 64), []
    for given in ({}, {"prior_share": 0.6}, {"patch_share": 0.5}, {"group_distance": 2.0, "patch_share": 0.5}):
        model = CASS(**given)
        model.use_vocabulary("shapes16")
        whole = WindowScores(model.read(image[None]), [(0, 0, 64, 64)], image)
        found.append(model.together(whole).scores)
        torch.testing.assert_close(found[-1], model(image[None]))
    assert all(not torch.allclose(a, b, atol=1e-5) for i, a in enumerate(found) for b in found[:i])


def test_the_numbers_are_the_released_ones() -> None:
    released = json.loads((ROOT / "tests" / "evaluation" / "released.json").read_text())["cass"]
    assert {name: list(numbers) for name, numbers in RELEASED.items()} == {name: r["cass"] for name, r in released.items()}


def test_heads_must_pair(tmp_path: Path) -> None:
    config = (CHECKPOINTS / "tiny_dino" / "config.json").read_text()
    (tmp_path / "config.json").write_text(re.sub(r'("num_attention_heads": )3', r"\g<1>2", config))
    (tmp_path / "preprocessor_config.json").write_bytes((CHECKPOINTS / "tiny_dino" / "preprocessor_config.json").read_bytes())
    with pytest.raises(UserError, match=r"has 3, .* 2\. Name a --model.dino with as many"):
        CASS(dino=str(tmp_path), dino_pretrained=False)
