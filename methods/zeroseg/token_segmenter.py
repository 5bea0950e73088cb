"""Methods that deal a picture's patches to segment tokens and name the tokens: GroupViT, ZeroSeg."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from common.batch import Batch
from common.distributed import is_padding_sample
from evaluation.label_map import LabelMap, majority_labels
from evaluation.metrics import NO_IMAGE, ConfusionMatrix
from evaluation.rules import PROMPT_RULES
from evaluation.windows import resize_image
from methods.evaluation_steps import evaluating
from methods.segmenter import Segmenter
from methods.zeroseg.segment_tokens import SegmentTokens, of_pixels, token_affinity


class TokenSegmenter(Segmenter):
    """Base of the group-based methods; ``test`` also logs how many tokens a picture uses and how well they cut it.

    The second is the mIoU that the tokens would reach on whole pictures if each bore the label of most of its pixels (an
    oracle: it tells bad groups from bad names).

    Args:
        options: as of :class:`methods.segmenter.Segmenter`.
    """

    scores = "probability"

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.text_QC: Tensor = torch.zeros(0, 0)
        self.oracle: ConfusionMatrix | None = None
        self.tokens_used: list[int] = []

    def followed_rules(self) -> frozenset[str]:
        """The temperature is in the probabilities of the tokens; so is the gate. Scores are of pixels, not upsampled."""
        return (super().followed_rules() | PROMPT_RULES | {"temperature", "gate_classes"}) - {"upsampling"}

    @property
    def temperature(self) -> float:
        """What cosines of tokens and words are multiplied with."""
        return self.protocol.decision.temperature

    @abstractmethod
    def groups(self, images: Tensor) -> SegmentTokens:
        """Segments of images (B, 3, H, W) in [0, 1]."""

    def forward(self, images: Tensor) -> Tensor:
        return self.score_with_best(images)[0]

    def score_with_best(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The best is that of all tokens, whether they have a pixel or not, as in GroupViT's code."""
        groups = self.groups(images)
        affinity_BmQ = token_affinity(groups, self.text_QC, self.temperature, self.protocol.decision.gate_classes)
        return of_pixels(affinity_BmQ, groups.map((images.shape[2], images.shape[3]))), affinity_BmQ.amax((1, 2))

    @torch.inference_mode()
    @evaluating
    def segment_map(self, image: Tensor) -> Tensor:
        """(H, W) the token of every pixel of a picture (3, H, W) in [0, 1], looked at whole."""
        resized = resize_image(image, self.protocol.windows)
        found = self.groups(resized[None]).map((resized.shape[1], resized.shape[2]))
        return F.interpolate(found[None].float(), image.shape[1:], mode="nearest")[0, 0].long()

    def predict_step(self, batch: Batch, batch_idx: int) -> list[LabelMap | None]:
        """Label maps with the token of every pixel."""
        found = super().predict_step(batch, batch_idx)
        for result, image in zip(found, batch["image"], strict=True):
            if result is not None:
                result.segments = self.segment_map(image)
        return found

    def on_test_epoch_start(self) -> None:
        super().on_test_epoch_start()
        self.oracle = ConfusionMatrix(self.vocabulary.num_classes, self.vocabulary.ignore_index).to(self.device)
        self.tokens_used = []

    def test_step(self, batch: Batch, batch_idx: int) -> dict[str, list[LabelMap]]:
        assert self.oracle is not None
        for image, mask, index in zip(batch["image"], batch["mask"], batch["index"], strict=True):
            token = self.segment_map(image)
            repeat = is_padding_sample(index)
            named = torch.full_like(mask, self.vocabulary.ignore_index) if repeat else mask
            labels = majority_labels(token, named, self.vocabulary.num_classes)
            self.oracle.update(labels, named, NO_IMAGE if repeat else index)
            if not repeat:
                self.tokens_used.append(len(token.unique()))
        return super().test_step(batch, batch_idx)

    def on_test_epoch_end(self) -> None:
        super().on_test_epoch_end()
        assert self.oracle is not None
        self.log("test/oracle_miou", self.oracle.result()["miou"].float(), rank_zero_only=True)
        self.log("test/tokens_used", float(sum(self.tokens_used)) / max(1, len(self.tokens_used)), sync_dist=True)
