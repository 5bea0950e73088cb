"""Regions out of SAM 2: its masks are those of transformers' own pipeline, then what becomes of them by hand."""

from functools import partial
from pathlib import Path
from typing import Any

from common.compat import declare_missing_operators

import numpy as np
import pytest
import torch
import transformers.models.sam2.image_processing_sam2 as library
from PIL import Image
from torch import Tensor
from transformers import MaskGenerationPipeline, Sam2Config, Sam2ImageProcessor, Sam2Model, Sam2VideoConfig, Sam2VideoModel

from backbones import region_masks
from backbones.region_masks import TINY, RegionMasks, load_region_masks, stability, without_doubles
from common.errors import UserError


def plain_nms(boxes: Tensor, scores: Tensor, idxs: Tensor, iou_threshold: float) -> Tensor:
    """As torchvision's, which has no kernel beside a CPU build of torch."""
    kept: list[int] = []
    for i in scores.argsort(descending=True, stable=True).tolist():
        if all(iou(boxes[i], boxes[j]) <= iou_threshold for j in kept):
            kept.append(i)
    return torch.tensor(kept, dtype=torch.int64)


def iou(a: Tensor, b: Tensor) -> float:
    low, high = torch.maximum(a[:2], b[:2]), torch.minimum(a[2:], b[2:])
    both = (high - low).clamp(min=0).prod()
    return float((both / ((a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod() - both)).nan_to_num())  # a line has no area


def spread(seed: int) -> RegionMasks:
    """A tiny network whose masks differ from point to point."""
    made = load_region_masks()
    torch.manual_seed(seed)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=2.5 * parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.3)
    return made


@pytest.mark.parametrize("same_box", [0.7, 1.5])  # with all doubles there are many masks
@torch.no_grad()
def test_masks_of_a_square_are_those_of_the_pipeline(same_box: float, monkeypatch: pytest.MonkeyPatch) -> None:
    if declare_missing_operators():
        monkeypatch.setattr(library, "batched_nms", plain_nms)
    monkeypatch.setattr(region_masks, "SAME_BOX", same_box)
    found = 0
    for seed in range(8):
        made = spread(seed)
        made.model.forward = partial(made.model.forward, multimask_output=False)
        processor = Sam2ImageProcessor(size={"height": 64, "width": 64})
        pipeline = MaskGenerationPipeline(model=made.model, image_processor=processor, device=torch.device("cpu"))
        pixels = np.random.default_rng(seed).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        options = {"points_per_crop": 8, "pred_iou_thresh": 0.4, "stability_score_thresh": 0.4, "crops_nms_thresh": same_box}
        theirs = pipeline(Image.fromarray(pixels), **options)["masks"]
        ours = made.masks(torch.from_numpy(pixels).permute(2, 0, 1) / 255)
        assert len(ours) == len(theirs)
        if theirs:
            assert (ours == torch.stack(theirs)).float().mean() > 0.999
        found += len(ours)
    assert found > (2 if same_box < 1 else 50)


@torch.no_grad()
def test_points_lie_all_over_a_rectangle() -> None:
    """Where transformers' pipeline leaves the lower half of this one without any."""
    made = spread(0)
    points = made.points(torch.device("cpu"))
    assert points.shape == (64, 2)
    assert points[:2].tolist() == [[4.0, 4.0], [12.0, 4.0]]
    assert (points.min(), points.max()) == (4, 60)
    logits, iou_ = made.asked_at(points, torch.rand(3, 40, 80))
    assert logits.shape == (64, 40, 80)
    assert iou_.shape == (64,)
    assert (logits[0] - logits[-1]).abs().max() > 0.1


def discs(*of: tuple[float, float]) -> Tensor:
    """Logits (P, 20, 20) of discs around (10, 10): radius and slope."""
    away = ((torch.arange(20)[:, None] - 10) ** 2 + (torch.arange(20) - 10) ** 2).sqrt()
    return torch.stack([slope * (radius - away) for radius, slope in of])


def test_what_is_unsure_or_unstable_is_no_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    made = load_region_masks()
    logits = discs((3, 9.0), (6, 9.0), (6, 0.3), (9, 9.0), (5.5, 9.0))
    sure = torch.tensor([0.9, 0.8, 0.9, 0.39, 0.7])
    assert stability(logits)[2] < 0.4 < stability(logits)[0]
    monkeypatch.setattr(made, "asked_at", lambda points, image: (logits, sure))
    found = made(torch.rand(3, 20, 20))
    assert torch.equal(made.masks(torch.rand(3, 20, 20)), logits[[0, 1]] > 0)  # the last's box is the second's
    expected = torch.zeros(20, 20, dtype=torch.int64)
    expected[logits[1] > 0] = 2  # the larger one lies over the smaller, which is gone
    assert torch.equal(found, expected)
    monkeypatch.setattr(made, "asked_at", lambda points, image: (logits - 100, sure))
    assert made(torch.rand(3, 20, 20)).unique().tolist() == [0]


def test_the_better_of_two_boxes_stays() -> None:
    boxes = torch.tensor([[0, 0, 10, 10], [0, 0, 10, 8], [0, 0, 10, 6], [20, 20, 30, 30]]).float()
    assert without_doubles(boxes, torch.tensor([0.5, 0.9, 0.6, 0.7])).tolist() == [1, 3]
    assert without_doubles(boxes, torch.tensor([0.9, 0.5, 0.6, 0.7])).tolist() == [0, 3, 2]  # 0.6 of the first
    assert without_doubles(boxes[:0], torch.zeros(0)).tolist() == []


@pytest.mark.parametrize("video", [False, True], ids=["pictures", "films"])
@torch.no_grad()
def test_weights_come_from_a_folder_also_of_the_network_for_films(video: bool, tmp_path: Path) -> None:
    """The published files say that they are for films; the one for pictures is inside."""
    torch.manual_seed(0)
    small: dict[str, Any] = {"memory_encoder_output_channels": 8} if video else {}
    made = Sam2VideoModel(Sam2VideoConfig(**TINY, **small)) if video else Sam2Model(Sam2Config(**TINY))
    made.save_pretrained(tmp_path)
    found = load_region_masks(str(tmp_path))
    state = made.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in found.model.state_dict().items())
    assert found.side == 64
    assert found(torch.rand(3, 30, 50)).shape == (30, 50)


def test_another_network_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "sam3"}')
    with pytest.raises(UserError, match=r"model_type of .* 'sam3'"):
        load_region_masks(str(tmp_path))
    Sam2Config(**TINY).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="cannot load the weights"):
        load_region_masks(str(tmp_path))
