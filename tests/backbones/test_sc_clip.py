"""SC-CLIP's parts; the whole of it is held against the released code in tests/methods/test_released_path.py."""

import torch

from backbones.blocks import Layers
from backbones.sc_clip import gathered, likeness, outliers, repaired


def test_a_patch_far_from_all_others_is_an_outlier() -> None:
    patches = torch.randn(2, 60, 8, generator=torch.Generator().manual_seed(0))
    patches[0, 17] += 20
    patches[1, 3] += 20
    odd = outliers(patches)
    assert odd[0, 17]
    assert odd[1, 3]
    assert odd.sum(1).tolist() == [3, 3]  # above the 95 % quantile of 60
    assert not outliers(patches[:, :1]).any()


def test_outliers_are_repaired_by_their_sound_neighbours_in_rows_of_the_grid() -> None:
    patches = torch.arange(15.0)[None, :, None].repeat(1, 1, 2)  # 3 rows of 5
    odd = torch.zeros(1, 15, dtype=torch.bool)
    odd[0, [6, 7]] = True
    found = repaired(patches, odd, (3, 5))[0, :, 0]
    assert found[6] == torch.tensor([0.0, 1, 2, 5, 10, 11, 12]).mean()
    assert found[7] == torch.tensor([1.0, 2, 3, 8, 11, 12, 13]).mean()
    assert torch.equal(found[~odd[0]], torch.arange(15.0)[~odd[0]])
    lonely = repaired(patches[:, :2], torch.ones(1, 2, dtype=torch.bool), (1, 2))
    assert torch.equal(lonely, patches[:, :2])  # without a sound neighbour a patch stays


def test_patches_gather_those_that_are_alike() -> None:
    patches = torch.tensor([[[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]]])
    alike = likeness(patches)
    torch.testing.assert_close(alike[0, 0], torch.tensor([1.0, 0.8, 0.0]))
    torch.testing.assert_close(gathered(patches, alike)[0, 0], (patches[0, 0] + 0.8 * patches[0, 1]) / 1.8, atol=1e-5, rtol=0)


def test_blocks_are_found_at_their_share_of_the_depth() -> None:
    def places(depth: int) -> list[int]:
        layers = Layers([torch.empty(0)] * (depth - 1), torch.nn.Identity(), (1, 1), torch.empty(0))  # type: ignore[arg-type]
        return [layers.place(block) for block in (4, 9, 10)]

    assert places(12) == [3, 8, 9]
    assert places(24) == [7, 17, 19]
    assert places(3) == [0, 1, 1]
