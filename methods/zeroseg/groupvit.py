"""GroupViT (CVPR 2022), the text-supervised ancestor of ZeroSeg's grouping: transformers' model, our evaluation."""

from __future__ import annotations

from typing import Any

import open_clip
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import GroupViTConfig, GroupViTModel
from transformers.models.groupvit.modeling_groupvit import get_grouping_from_attentions

from backbones.tower import join_templates
from common.errors import UserError, in_one_line
from common.images import IMAGENET
from common.randomness import drawing_from
from methods.dense_clip import embed_words
from methods.supervision import Supervision
from methods.zeroseg.segment_tokens import SegmentTokens
from methods.zeroseg.token_segmenter import TokenSegmenter

TINY: dict[str, Any] = {  # for tests: the published sizes with random weights would take seconds to make
    "vision_config": {
        "hidden_size": 48,
        "intermediate_size": 96,
        "depths": [1, 1, 1],
        "num_hidden_layers": 3,
        "num_group_tokens": [8, 4, 0],
        "num_output_groups": [8, 4, 0],
        "num_attention_heads": 3,
        "image_size": 64,
        "patch_size": 8,
    },
    "text_config": {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 1, "num_attention_heads": 3},
    "projection_dim": 32,
    "projection_intermediate_dim": 64,
}


class GroupViT(TokenSegmenter):
    """A pretrained GroupViT; nothing is trained here.

    Args:
        weights: ``nvidia/groupvit-gcc-yfcc``, ``nvidia/groupvit-gcc-redcaps``, a folder of such files, or null for a tiny
            random one.
        revision: commit of the repository.
        options: as of :class:`methods.segmenter.Segmenter`; the released rules are ``protocol: groupvit``.
    """

    sees = Supervision.NOTHING

    @property
    def temperature(self) -> float:
        """The scale that the model has learnt, at most 100."""
        return float(self.model.logit_scale.exp().clamp(max=100))

    def followed_rules(self) -> frozenset[str]:
        return super().followed_rules() - {"temperature"}

    def __init__(
        self,
        weights: str | None = None,
        revision: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.model: Any = _tiny() if weights is None else _published(weights, revision)
        self.model.requires_grad_(False).eval()
        self.tokenizer = open_clip.get_tokenizer("ViT-B-32")  # CLIP's BPE, which GroupViT uses

    def embed_vocabulary(self, words: list[str]) -> None:
        self.text_QC, self.class_of_word = embed_words(words, self.class_of_word, self.protocol.prompt, self._embed_text)

    @torch.no_grad()
    def _embed_text(self, words: list[str], templates: list[str], ensemble: str) -> Tensor:
        tokens = self.tokenizer([template.format(word) for word in words for template in templates]).to(self.device)
        pooled = [self.model.text_model(part).pooler_output for part in tokens.split(256)]
        text: Tensor = self.model.text_projection(torch.cat(pooled))
        return join_templates(text.unflatten(0, (len(words), -1)), ensemble)

    def groups(self, images: Tensor) -> SegmentTokens:
        vision, patch = self.model.vision_model, self.model.config.vision_config.patch_size
        pixels = F.pad(images, (0, -images.shape[3] % patch, 0, -images.shape[2] % patch), mode="replicate")
        mean, std = (torch.tensor(values, device=images.device).view(3, 1, 1) for values in IMAGENET)
        x = vision.embeddings((pixels - mean) / std, interpolate_pos_encoding=True)
        found = vision.encoder(x, output_hidden_states=False, output_attentions=True, return_dict=True)
        segments = vision.layernorm(found[0])
        maps = get_grouping_from_attentions(found.attentions, (pixels.shape[2] // patch, pixels.shape[3] // patch))
        project = self.model.visual_projection
        return SegmentTokens(maps, project(segments.flatten(0, 1)).unflatten(0, segments.shape[:2]), project(segments.mean(1)))


def _tiny() -> Any:
    with drawing_from(0):
        model = GroupViTModel(GroupViTConfig(**TINY))
        for parameter in model.parameters():  # transformers leaves positions and group tokens at zero: all tokens alike
            if parameter.ndim > 1 and not parameter.any():
                nn.init.normal_(parameter, std=0.5)
        return model


def _published(weights: str, revision: str | None) -> Any:
    try:
        return GroupViTModel.from_pretrained(weights, revision=revision or "main", use_safetensors=True)
    except Exception as error:
        raise UserError(f"GroupViT '{weights}' cannot be loaded: {in_one_line(error)}") from error
