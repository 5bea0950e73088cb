"""ResCLIP (CVPR 2025): attention of middle blocks and a first segmentation refine the last block's attention.

The attention is in :mod:`backbones.res_clip`; here is what it needs words and pixels for, the first segmentation.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from backbones.clip import CLIP
from backbones.res_clip import Base, Joining, feedback_map, middle_attention, refined
from common.values import Amount, Share
from evaluation.refine import Pamr
from methods.dense_clip import DenseCLIP

RCS_TAU, FEEDBACK_SCALE, DILATIONS, ITERATIONS = 2.0, 40.0, (8, 16), 10
RELEASED = {  # yvhangyang/ResCLIP@0e085f7: rcs_lambda, sfr_tau, sfr_lambda, feedback_threshold
    "voc21": (0.3, 2.2, 0.7, 0.5),
    "voc20": (0.6, 2.1, 0.6, 0.1),
    "context60": (0.3, 1.8, 0.7, 0.3),
    "context59": (0.4, 1.8, 0.7, 0.25),
    "coco_object": (0.4, 1.8, 0.7, 0.11),
    "coco_stuff171": (0.4, 1.8, 0.7, 0.11),
    "cityscapes": (0.2, 2.1, 0.6, 0.1),
    "ade150": (0.3, 2.1, 0.7, 0.25),
}
ELSEWHERE = RELEASED["coco_stuff171"]  # INFERRED


class ResCLIP(DenseCLIP):
    """See the module. Each number that is not given is the released one for the label space asked, or COCO-Stuff's.

    Args:
        rule: the attention that is refined; ``naclip`` is the released setting.
        rcs_lambda: share of the middle blocks' attention in the last block's weights.
        sfr_tau: what the logits of the second pass are multiplied with.
        sfr_lambda: share of the feedback map in those logits.
        feedback_threshold: pixels of the first pass whose best probability is below it take the first word.
        options: as of :class:`DenseCLIP`.
    """

    backbone: CLIP

    def __init__(
        self,
        rule: Base = "naclip",
        rcs_lambda: Share | None = None,
        sfr_tau: Amount | None = None,
        sfr_lambda: Share | None = None,
        feedback_threshold: Share | None = None,
        **options: Any,
    ) -> None:
        super().__init__(rule=rule, **options)
        self.check_clip()
        self.base = rule
        self.given = (rcs_lambda, sfr_tau, sfr_lambda, feedback_threshold)

    @property
    def numbers(self) -> tuple[float, ...]:
        """rcs_lambda, sfr_tau, sfr_lambda and feedback_threshold, as given or as released."""
        released = RELEASED.get(self.vocabulary.name, ELSEWHERE)
        return tuple(own if given is None else given for given, own in zip(self.given, released, strict=True))

    def forward(self, images: Tensor) -> Tensor:
        return self.score_with_features(images)[0]

    def patch_features(self, images: Tensor) -> Tensor:
        """The dense embeddings of the second pass."""
        return self.score_with_features(images)[1]

    def score_with_features(self, images: Tensor) -> tuple[Tensor, Tensor]:
        clip, (rcs_lambda, sfr_tau, sfr_lambda, _) = self.backbone, self.numbers
        images = clip.at_least_a_patch(images)
        x, grid = clip.embed_patches(images, self.protocol.windows.position_resize)
        x, middle = middle_attention(clip.blocks, x)
        rcs, sfr = (Joining(RCS_TAU, rcs_lambda), middle), Joining(sfr_tau, sfr_lambda)
        first, _ = self._compared(clip.last_block(x, grid, refined(self.base, rcs)), grid)
        feedback = feedback_map(self.patch_labels(images, first))
        return self._compared(clip.last_block(x, grid, refined(self.base, rcs, (sfr, feedback))), grid)

    def patch_labels(self, images: Tensor, cosines: Tensor) -> Tensor:
        """The most frequent word (B, h, w) in each patch of the first pass, whose cosines (B, Q, h, w) PAMR has refined."""
        labels = []
        for image, maps in zip(images, F.interpolate(cosines, images.shape[2:], mode="bilinear"), strict=True):
            probability = (FEEDBACK_SCALE * Pamr(image, DILATIONS, ITERATIONS)(maps)).softmax(0)
            best, word = probability.max(0)
            word = word.masked_fill(best < self.numbers[3], 0)
            votes = F.one_hot(word, len(maps)).permute(2, 0, 1).float()
            labels.append(F.avg_pool2d(votes, self.backbone.stride).argmax(0))  # of equally frequent words the first
        return torch.stack(labels)

    def _compared(self, tokens: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Cosines (B, Q, h, w) of tokens (B, 1 + n, D) with the words, and the dense embeddings (B, C, h, w)."""
        dense = self.backbone.unit_patches(tokens, grid)
        return torch.einsum("bchw,qc->bqhw", dense, self.text_QC), dense
