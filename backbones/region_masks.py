"""Regions of a picture: the masks of SAM 2 (2024) for a grid of points, drawn into one map of numbers.

The thresholds are those that CorrCLIP asks its generator for (zdk258/CorrCLIP@103bc18, CorrCLIPv1). transformers' own pipeline
for masks is not called, because it spreads the points as in SAM's pictures, which are padded to squares. SAM 2's are squeezed
into them, so that the right or lower part of a rectangle would get no point.

Shapes: (H, W) the picture, P points, N masks kept.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import box_iou, masks_to_boxes
from transformers import Sam2Config, Sam2Model

from backbones.transformers_families import library_weights, model_folder
from common.errors import known
from common.images import IMAGENET
from common.randomness import drawing_from

POINTS = 8  # along each side
LEAST_IOU, LEAST_STABILITY = 0.4, 0.4  # of the masks that are kept; the first is SAM 2's own guess
MARGIN = 1.0  # of logits, by which a stable mask may be grown or shrunk
SAME_BOX = 0.7  # IoU of boxes from which on two masks are one
KINDS = ("sam2", "sam2_video")  # model_type; the published files say the second, and hold the first
SEED = 9  # of a random network that finds a mask in most pictures
_RANGE = {"initializer_range": 0.3}  # large enough that its logits differ from place to place
TINY: dict[str, Any] = {
    "vision_config": {
        "backbone_config": {
            "model_type": "sam2_hiera_det_model",
            "hidden_size": 8,
            "image_size": [64, 64],
            "blocks_per_stage": [1, 1, 2, 1],
            "embed_dim_per_stage": [8, 16, 32, 64],
            "num_attention_heads_per_stage": [1, 1, 2, 2],
            "window_size_per_stage": [4, 2, 2, 2],
            "global_attention_blocks": [3],
            **_RANGE,
        },
        "backbone_channel_list": [64, 32, 16, 8],
        "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]],
        "fpn_hidden_size": 32,
        **_RANGE,
    },
    "prompt_encoder_config": {"hidden_size": 32, "image_size": 64, "mask_input_channels": 8},
    "mask_decoder_config": {"hidden_size": 32, "mlp_dim": 64, "num_attention_heads": 2, "iou_head_hidden_dim": 32},
    **_RANGE,
}


class RegionMasks(nn.Module):
    """A frozen SAM 2 that is asked for everything in a picture.

    Args:
        model: as transformers made it.
    """

    def __init__(self, model: Sam2Model) -> None:
        super().__init__()
        self.model: Any = model.float()
        self.model.mask_decoder.dynamic_multimask_via_stability = False  # as released: a point's first mask, stable or not
        self.requires_grad_(False).eval()

    @property
    def side(self) -> int:
        """Of the square that a picture is squeezed into, in pixels; 1024 as published."""
        return int(self.model.config.prompt_encoder_config.image_size)

    def forward(self, image: Tensor) -> Tensor:
        """Numbers of regions (H, W), int64, of a picture (3, H, W) in [0, 1]; 0 is where no mask is.

        Masks are numbered by their area, and a larger one lies over a smaller one, as released.
        """
        found = torch.zeros(image.shape[1:], dtype=torch.int64, device=image.device)
        masks = self.masks(image)
        for number, mask in enumerate(masks[masks.sum((1, 2)).argsort(stable=True)], 1):
            found[mask] = number
        return found

    def masks(self, image: Tensor) -> Tensor:
        """Masks (N, H, W), bool, of a picture (3, H, W) in [0, 1], the surest first."""
        logits, iou = self.asked_at(self.points(image.device), image)
        kept = (iou > LEAST_IOU) & (stability(logits) >= LEAST_STABILITY)
        masks, iou = logits[kept] > 0, iou[kept]
        return masks[without_doubles(masks_to_boxes(masks), iou)]

    def asked_at(self, points: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (P, H, W) of the mask at each point (P, 2) of the square, x and y, and how good SAM 2 takes it to be (P,)."""
        mean, std = (torch.tensor(values).view(3, 1, 1).to(image) for values in IMAGENET)
        size = (self.side, self.side)
        square = F.interpolate(image[None], size, mode="bilinear", antialias=True, align_corners=False)
        found = self.model((square - mean) / std, input_points=points[None, :, None], multimask_output=False)
        logits = F.interpolate(found.pred_masks[0], image.shape[1:], mode="bilinear", align_corners=False)
        return logits[:, 0], found.iou_scores[0, :, 0]

    def points(self, device: torch.device) -> Tensor:
        """The grid (P, 2) in pixels of the square, x and y, row by row."""
        along = (torch.arange(POINTS, device=device) + 0.5) / POINTS * self.side
        return torch.cartesian_prod(along, along).flip(1)


def stability(logits: Tensor) -> Tensor:
    """(P,) IoU of the masks (P, H, W) shrunk and grown by the margin; NaN for an empty one."""
    return (logits > MARGIN).sum((1, 2)) / (logits > -MARGIN).sum((1, 2))


def without_doubles(boxes: Tensor, scores: Tensor) -> Tensor:
    """Which of boxes (N, 4) are kept, best score first, if none may cover a better one too well (non-maximum suppression).

    torchvision's own has no kernel beside a CPU build of torch (:mod:`common.compat`).
    """
    order = scores.argsort(descending=True, stable=True)
    same = (box_iou(boxes[order], boxes[order]) > SAME_BOX).tolist()
    kept: list[int] = []
    for i in range(len(order)):
        if not any(same[i][j] for j in kept):
            kept.append(i)
    return order[kept]


def load_region_masks(sam: str | None = None, revision: str | None = None) -> RegionMasks:
    """A frozen generator of masks.

    Args:
        sam: a repository ``owner/name`` of the hub, a folder like one (config.json and weights of transformers' SAM 2 as
            safetensors), or None for a tiny random network.
        revision: commit of a repository.

    Raises:
        UserError: no such model, or of another family, weights of another model, no network.
    """
    if sam is None:
        with drawing_from(SEED):
            return RegionMasks(Sam2Model(Sam2Config(**TINY)))
    folder, kind, _ = model_folder(sam, sam, revision, "sam_revision")
    known(f"model_type of '{sam}'", kind, KINDS)
    return RegionMasks(library_weights(Sam2Model, folder, sam))
