"""ITSM, the image-text similarity map of ICLIP and FreeSeg: how much a patch looks like a class, between 0 and 1.

M = (S - min S) / (max S - min S) over the patches of a picture, for each class by itself, where S are the cosines of patches
and class. It says where in a picture a class fits best, not whether it fits at all: an absent class's map also reaches 1.
Plain CLIP's map is often *inverted*, low on the object and high around it (ICLIP, section 1).

A class that is asked by several words has the highest of their cosines, of a patch and of the whole picture alike, before
anything compares classes with each other. So asking a class twice changes nothing: its words neither share out its
probability nor take the lead from each other. Shapes: B pictures, Q words, K asked classes, N crops, (h, w) patches.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from backbones.attention import RuleName, rule_named
from backbones.clip import CLIP
from backbones.feature_surgery import SHARPNESS, feature_surgery
from backbones.tower import DenseTower
from common.synonyms import best_of_class
from evaluation.rules import Windows
from evaluation.windows import overlaid, resized_side_lengths, window_boxes

Sign = Literal["raw", "reversed", "auto"]


class Similarity(NamedTuple):
    """``crops`` (B, N, K), cosines of crops by the unchanged tower, the whole picture first; ``map`` (B, K, h, w), by the rule;
    ``patches`` (B, K, h, w), cosines of patches, which a rule without surgery calls its map.
    """

    crops: Tensor
    map: Tensor
    patches: Tensor


@dataclass(frozen=True)
class SimilarityMaker:
    """How much patches show classes, by a tower: cosines, or what the tower itself compares with words.

    Attributes:
        tower: the model.
        text: (Q, C) unit embeddings of the words.
        class_of_word: (Q,) class of each.
        rule: attention rule of the dense tokens.
        views: how the tower looks at a picture: whole, or in windows; the map is the mean over views, mirrored ones included.
        projection: (D, C) of the dense tokens, in the place of CLIP's own (ICLIP).
        batch: crops of the tower's own size that it sees at once; of larger ones fewer. Bounds the memory, changes no result.
    """

    tower: DenseTower
    text: Tensor
    class_of_word: Tensor
    rule: RuleName
    views: tuple[Windows, ...]
    projection: Tensor | None
    batch: int

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Similarity:
        """Of images (B, 3, H, W) in [0, 1]."""
        found = [self._look(images, view) for view in self.views]
        finest = max((tuple(maps.shape[2:]) for _, maps in found), key=lambda grid: grid[0] * grid[1])
        maps = [F.interpolate(maps, finest, mode="bilinear", align_corners=False) for _, maps in found]
        return Similarity(torch.cat([crops for crops, _ in found], 1), *torch.stack(maps).mean(0).chunk(2, 1))

    def at_once(self, height: int, width: int) -> int:
        """Pictures of a size that are looked at together, each with its mirrored copy."""
        native = self.tower.native_side
        return max(1, self.batch * native**2 // (2 * height * width))

    def _look(self, images: Tensor, view: Windows) -> tuple[Tensor, Tensor]:
        """Cosines (B, n, K) of a view's crops, and map and patches (B, 2 K, h, w) of all, averaged where crops overlap."""
        patch = self.tower.stride
        lengths = resized_side_lengths(images.shape[2], images.shape[3], view)
        size = (-(-lengths[0] // patch) * patch, -(-lengths[1] // patch) * patch)
        boxes = window_boxes(*size, view)
        cells = [(top // patch, left // patch, bottom // patch, right // patch) for top, left, bottom, right in boxes]
        crops, maps = [], []
        for some in images.split(self.at_once(*size)):
            sized = F.interpolate(some, size, mode="bicubic", antialias=True) if size != some.shape[2:] else some
            crop = (sized[:, :, top:bottom, left:right] for top, left, bottom, right in boxes)
            seen = [self._both_ways(one, view.position_resize) for one in crop]
            crops.append(torch.stack([of_crop for of_crop, _ in seen], 1))
            of_crops = [of_patches for _, of_patches in seen]
            maps.append(of_crops[0] if len(boxes) == 1 else overlaid(of_crops, cells, (size[0] // patch, size[1] // patch)))
        return torch.cat(crops), torch.cat(maps)

    def _both_ways(self, images: Tensor, position_resize: str) -> tuple[Tensor, Tensor]:
        """Cosines (B, K) of images, and their map and patches (B, 2 K, h, w), the mean of the image and its mirror image."""
        words, of_patches = self._of_words(torch.cat([images, images.flip(3)]), position_resize)
        whole, patches = best_of_class(words, self.class_of_word), best_of_class(of_patches, self.class_of_word)
        of_rule = patches
        if rule_named(self.rule).surgery:  # each word has a weight of its own; in what all have in common a class counts once
            position = self.class_of_word.unique(return_inverse=True)[1]
            lesser = (SHARPNESS * (words - whole[:, position])).exp()[..., None, None]
            of_rule = feature_surgery(best_of_class(of_patches * lesser, self.class_of_word), whole)
        straight, mirrored = torch.cat([of_rule, patches], 1).chunk(2)
        return whole.chunk(2)[0], (straight + mirrored.flip(3)) / 2

    def _of_words(self, images: Tensor, position_resize: str) -> tuple[Tensor, Tensor]:
        """Cosines (B, Q) of images, and what (B, Q, h, w) their patches have of the words."""
        if not isinstance(self.tower, CLIP):
            reading = {"rule": self.rule, "position_resize": position_resize}
            of_patches, _ = self.tower.compare(images, self.text, self.class_of_word, **reading)
            return self.tower.embed_image(images) @ self.text.T, of_patches
        pooled, dense = self.tower.tokens(images, self.rule, position_resize, pooled=True, projection=self.projection)
        assert pooled is not None
        return pooled @ self.text.T, torch.einsum("bchw,qc->bqhw", dense, self.text)


def itsm(similarity: Tensor) -> Tensor:
    """Maps (B, K, h, w) in [0, 1] of cosines (B, K, h, w); a constant map becomes 0."""
    lowest, highest = (extreme(similarity, (2, 3), keepdim=True) for extreme in (torch.amin, torch.amax))
    return (similarity - lowest) / (highest - lowest).clamp_min(1e-6)


def signed(maps: Tensor, sign: Sign) -> Tensor:
    """Maps (B, K, h, w) as they are, ``reversed`` (1 - M), or whichever of them ``auto`` takes for upright.

    ``auto`` knows no ground truth: things lie inside a picture more often than at its border, so a class's map is turned over
    where the border is its brighter part (INFERRED; the papers compare with a self-supervised foreground).
    """
    if sign == "raw":
        return maps
    if sign == "reversed":
        return 1 - maps
    inside = torch.ones(maps.shape[2:], dtype=torch.bool, device=maps.device)
    inside[[0, -1]] = False
    inside[:, [0, -1]] = False
    if not inside.any():
        return maps
    upright = maps[..., inside].mean(-1) >= maps[..., ~inside].mean(-1)
    return torch.where(upright[..., None, None], maps, 1 - maps)
