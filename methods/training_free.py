"""The training-free family: dense CLIP tokens under an attention rule against text embeddings.

CLIP, MaskCLIP (ECCV 2022), CLIP Surgery (2023), GEM (CVPR 2024), SCLIP and ClearCLIP (ECCV 2024), NACLIP (WACV 2025).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from backbones.attention import rule_named
from backbones.clip import CLIP, EMBEDDED
from methods.segmenter import Segmenter, Supervision

SURGERY_SHARPNESS = 2.0  # of the class weights; hard-coded in the published code


class TrainingFree(Segmenter):
    """Dense CLIP under one of the rules of :mod:`backbones.attention`.

    Args:
        rule: clip, maskclip, maskclip_bare, sclip, naclip, clearclip, gem or surgery.
        clip: open_clip model, see :class:`backbones.CLIP`.
        pretrained: its weights.
        revision: commit of an ``hf-hub:`` model.
        protocol: name of a preset.
        protocol_values: single rules to change.
        window_batch: windows scored at once.
    """

    sees = Supervision.NOTHING

    def __init__(
        self,
        rule: str = "sclip",
        clip: str = "tiny_clip",
        pretrained: str | None = EMBEDDED,
        revision: str | None = None,
        protocol: str = "shapes",
        protocol_values: dict[str, Any] | None = None,
        window_batch: int = 64,
    ) -> None:
        super().__init__(protocol, protocol_values, window_batch)
        self.save_hyperparameters(logger=False)
        self.rule_name, self.rule = rule, rule_named(rule)
        self.backbone = CLIP(clip, pretrained, revision)
        self.text_QC: Tensor = torch.zeros(0, 0)

    def embed_vocabulary(self, words: list[str]) -> None:
        self.text_QC = self.embed_words(words)

    def embed_words(self, words: list[str]) -> Tensor:
        """Unit text embeddings (Q, C), or one mean embedding a class where the protocol says so."""
        text = self.backbone.embed_text(words, self.protocol.template_list, self.protocol.ensemble).to(self.device)
        if self.protocol.synonyms == "mean":
            classes, inverse = self.class_of_word.unique(return_inverse=True)
            summed = torch.zeros(len(classes), text.shape[1], device=self.device).index_add_(0, inverse, text)
            text, self.class_of_word = torch.nn.functional.normalize(summed, dim=-1), classes
        return text

    def forward(self, images: Tensor) -> Tensor:
        pooled, dense = self.backbone.tokens(images, self.rule_name, self.protocol.position_resize, pooled=self.rule.surgery)
        scores = torch.einsum("bchw,qc->bqhw", dense, self.text_QC)
        return scores if pooled is None else feature_surgery(scores, pooled @ self.text_QC.T)

    def patch_features(self, images: Tensor) -> Tensor:
        """CLIP's dense embeddings under the rule."""
        return self.backbone.tokens(images, self.rule_name, self.protocol.position_resize)[1]


def feature_surgery(scores: Tensor, image_scores: Tensor) -> Tensor:
    """CLIP Surgery, section 3.2, in its collapsed form: w_k <f, t_k> - mean_j w_j <f, t_j>, for any batch size.

    Args:
        scores: (B, Q, h, w) cosines of patches.
        image_scores: (B, Q) cosines of the image embedding; w is their softmax over classes relative to its mean.
    """
    weights = torch.softmax(SURGERY_SHARPNESS * image_scores, dim=-1) * image_scores.shape[-1]
    weighted = scores * weights[..., None, None]
    return weighted - weighted.mean(1, keepdim=True)
