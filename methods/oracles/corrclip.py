"""CorrCLIP (ICCV 2025): patches of CLIP are mixed inside regions that SAM 2 finds, and each region gets one label.

The mixing is in :mod:`backbones.corrclip`, the regions are from :mod:`backbones.region_masks`. Nothing is trained here. SAM 2
was, with masks that have no names, so that the method stands with the oracles, outside the ranking.

Shapes: B windows, (H, W) a picture, (R, S) the resized picture, (I, J) DINO's grid, K words.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from backbones.clip import CLIP
from backbones.corrclip import SEMANTIC_SHARE, SPATIAL_SHARE, branches, nearest
from backbones.region_masks import load_region_masks
from common.batch import IGNORED, to_unit
from evaluation.inference import Inference
from evaluation.label_map import LabelMap, majority_labels
from evaluation.windows import WindowScores, resize_image, score_windows
from methods.second_tower import SecondTower
from methods.supervision import Supervision


class CorrCLIP(SecondTower):
    """See the module; as released CLIP is MetaCLIP's ViT-B/16, the second tower facebook/dino-vitb8, SAM 2 the large one.

    Args:
        sam: SAM 2, see :func:`backbones.region_masks.load_region_masks`.
        sam_revision: its commit, if it is a repository of the hub.
        options: as of :class:`methods.second_tower.SecondTower`.
    """

    sees = Supervision.NAMELESS
    no_graph = "regions that are alike are joined outside torch, and their number differs from picture to picture."

    backbone: CLIP

    def __init__(self, sam: str | None = None, sam_revision: str | None = None, **options: Any) -> None:
        super().__init__(rule="clip", **options)
        self.check_clip()
        self.regions = load_region_masks(sam, sam_revision)
        if sam is not None:
            self.pretrained_parts = (*self.pretrained_parts, "regions")

    def forward(self, images: Tensor) -> Tensor:
        """Each picture as one window, whose regions are its own."""
        regions = torch.stack([self.regions(image) for image in images])
        return self.read(torch.cat([images, regions[:, None].to(images)], 1))

    def read(self, windows: Tensor) -> Tensor:
        """Cosines (B, K, I, J) of windows (B, 4, R, S): red, green and blue in [0, 1], and the numbers of regions."""
        height, width = (max(side // self.backbone.stride, 1) * self.backbone.stride for side in windows.shape[2:])
        images, regions = windows[:, :3], windows[:, 3, :height, :width]
        features = F.normalize(self.dino(images[:, :, :height, :width], "queries + keys"), dim=1)
        grid = (features.shape[2], features.shape[3])
        layers = self.backbone.layers(images, self.protocol.windows.position_resize)
        found = branches(self.backbone.blocks, layers, features, nearest(regions, grid))
        main, spatial, semantic = (self.backbone.project(branch) for branch in found)
        dense = F.normalize(main + SPATIAL_SHARE * spatial + SEMANTIC_SHARE * semantic, dim=-1)
        return (dense @ self.text_QC.T).transpose(1, 2).unflatten(2, grid)

    @property
    def inference(self) -> Inference:
        scored = vars(super().inference) | {"score": self.read, "score_with_best": lambda windows: (self.read(windows), None)}
        return InferenceInRegions(**scored, regions=self.regions)


@dataclass(frozen=True, kw_only=True)
class InferenceInRegions(Inference):
    """Inference whose windows know their regions, each of which takes one label at the end.

    Attributes:
        regions: a picture (3, H, W) -> numbers of its regions (H, W); the least is not a region.
        found: those of pictures in work, by identity, because windows and label map both need them.
    """

    regions: Callable[[Tensor], Tensor]
    found: dict[int, Tensor] = field(default_factory=dict)

    @torch.inference_mode()
    def label_maps(self, images: list[Tensor], with_score: bool = False) -> list[LabelMap]:
        images = [to_unit(image) for image in images]
        maps = super().label_maps(images, with_score)
        return [one_label_each(map_, self._regions(image)) for map_, image in zip(maps, images, strict=True)]

    def _score(self, images: list[Tensor]) -> list[WindowScores]:
        windows = self.protocol.windows
        resized = [resize_image(image, windows) for image in images]
        numbers = [
            nearest(self._regions(image)[None], (small.shape[1], small.shape[2]))
            for image, small in zip(images, resized, strict=True)
        ]
        both = [torch.cat([small, number.to(small)]) for small, number in zip(resized, numbers, strict=True)]
        found = score_windows(self._score_window, both, windows, self.window_batch)
        return [replace(one, image=small) for one, small in zip(found, resized, strict=True)]

    def _regions(self, image: Tensor) -> Tensor:
        if id(image) not in self.found:
            self.found[id(image)] = self.regions(image)
        return self.found[id(image)]


def one_label_each(found: LabelMap, regions: Tensor) -> LabelMap:
    """The label map with each region's most frequent label all over it (map correction).

    A region's score is the mean of its pixels' that had that label, the others counted as 0 (INFERRED: released there is none).
    """
    number = regions.unique(return_inverse=True)[1]
    inside = number > 0
    labels = torch.where(inside, majority_labels(number, found.labels, IGNORED), found.labels)
    if found.score is None:
        return LabelMap(labels, None)
    agreed = (found.score * (labels == found.labels)).flatten()
    mean = torch.bincount(number.flatten(), agreed) / torch.bincount(number.flatten())
    return LabelMap(labels, torch.where(inside, mean[number].to(found.score), found.score))
