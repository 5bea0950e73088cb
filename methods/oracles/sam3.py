"""SAM 3 (2025): detects and masks whatever a noun phrase names, trained with millions of phrases and masks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import Sam3Config, Sam3Model
from transformers.modeling_outputs import BaseModelOutputWithPooling

from methods.oracles.word_by_word import WordByWord

_HEADS: dict[str, Any] = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64}
TINY: dict[str, Any] = {
    "vision_config": {
        "backbone_config": {
            "model_type": "sam3_vit_model",
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 112,
            "pretrain_image_size": 56,
            "patch_size": 14,
            "window_size": 4,
            "global_attn_indexes": [1],
        },
        "fpn_hidden_size": 32,
        "backbone_feature_sizes": [[32, 32], [16, 16], [8, 8]],
    },
    "text_config": {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "projection_dim": 32,
        "max_position_embeddings": 32,
    },
    "geometry_encoder_config": {**_HEADS, "num_layers": 1},
    "detr_encoder_config": {**_HEADS, "num_layers": 1},
    "detr_decoder_config": {**_HEADS, "num_layers": 1, "num_queries": 5},
    "mask_decoder_config": {"hidden_size": 32, "num_attention_heads": 2},
}


class SAM3(WordByWord):
    """``hf-hub:facebook/sam3`` by words (its licence has to be accepted there).

    A place's probability is the larger of two: that of the semantic mask, and the best instance's, mask times score times
    presence. INFERRED: the model's paper gives instances; this union is what later work on segmentation by SAM 3 takes.
    """

    mean = std = (0.5, 0.5, 0.5)
    text_length = 32

    @staticmethod
    def tiny() -> Sam3Model:
        return Sam3Model(Sam3Config(**TINY))

    @staticmethod
    def load(folder: str) -> Sam3Model:
        return Sam3Model.from_pretrained(folder, use_safetensors=True)

    @property
    def side(self) -> int:
        """1008 as published."""
        return int(self.model.config.vision_config.backbone_config.image_size)

    def embed(self, ids: Tensor, real: Tensor) -> tuple[Tensor, ...]:
        return self.model.get_text_features(ids, attention_mask=real.long()).pooler_output, real

    def encode(self, pixels: Tensor) -> Any:
        return self.model.get_vision_features(pixels)

    def probabilities(self, encoded: Any, text: tuple[Tensor, ...]) -> Tensor:
        return torch.stack([self._one_word(encoded, *word) for word in zip(*text, strict=True)])

    def _one_word(self, encoded: Any, words_TC: Tensor, real_T: Tensor) -> Tensor:
        """(h, w); a pass a word holds the masks of its instances (200 of 288 x 288 as published) and no other word's."""
        asked = BaseModelOutputWithPooling(pooler_output=words_TC[None])
        found = self.model(vision_embeds=encoded, text_embeds=asked, attention_mask=real_T[None])
        presence = found.presence_logits[0].sigmoid()
        instances = found.pred_masks[0].sigmoid() * (found.pred_logits[0].sigmoid() * presence)[:, None, None]
        return torch.maximum(found.semantic_seg[0, 0].sigmoid(), instances.amax(0))
