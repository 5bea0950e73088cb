"""ResCLIP's parts; the whole of it is held against the released code in tests/methods/test_res_clip.py."""

import math

import torch

from backbones.res_clip import connected, feedback_map


def test_patches_of_one_label_without_a_path_of_it_weigh_less() -> None:
    labels = torch.tensor([[[1, 1, 0, 1, 1]]])
    distance, path = connected(labels)
    assert distance[0].tolist() == [0, 1, 2, 3, 4]
    assert path[0, 0].tolist()[3:] == [False, False]  # these would cross the other label
    assert path[0, 0, 1]
    assert path[0, 3, 4]
    assert path[0].diagonal().all()


def test_only_the_beginning_of_a_short_path_is_looked_at() -> None:
    """As released: in a grid of 9, the way from 2 to 4 is looked at in three of nine places, none of which reaches 3."""
    labels = torch.tensor([[[0, 0, 1, 0, 1, 1, 1, 1, 1]]])
    assert connected(labels)[1][0, 2, 4]
    assert not connected(labels)[1][0, 2, 8]


def test_the_map_is_smooth_in_reading_order_and_has_no_class_token() -> None:
    labels = torch.tensor([[[3, 3, 0], [0, 0, 3]]])
    found = feedback_map(labels)[0]
    assert not found[0].any()
    assert not found[:, 0].any()
    assert found.max() == 1
    weight = torch.zeros(6, 6, dtype=torch.float64)
    for i, a in enumerate(labels.flatten()):
        for j, b in enumerate(labels.flatten()):
            far = max(abs(i // 3 - j // 3), abs(i % 3 - j % 3))
            weight[i, j] = (a == b) * (1 if connected(labels)[1][0, i, j] else math.exp(-far / 2))
    kernel = torch.tensor([math.exp(-((k - 3) ** 2) / 50) for k in range(7)], dtype=torch.float64)
    smooth = torch.stack(
        [
            torch.stack([sum(row[j + k - 3] * kernel[k] for k in range(7) if 0 <= j + k - 3 < 6) for j in range(6)])
            for row in weight
        ]
    )
    rows = smooth / smooth.sum(1, keepdim=True)
    torch.testing.assert_close(found[1:, 1:].double(), rows / rows.max(), atol=1e-5, rtol=0)


def test_pictures_of_a_batch_do_not_touch_each_other() -> None:
    labels = torch.randint(0, 3, (2, 4, 5))
    together = feedback_map(labels)
    for one, alone in zip(together, labels, strict=True):
        torch.testing.assert_close(one, feedback_map(alone[None])[0])
