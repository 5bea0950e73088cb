"""CLIPSeg (CVPR 2022): a small decoder over a frozen CLIP, trained with the phrases and masks of PhraseCut."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import CLIPSegConfig, CLIPSegForImageSegmentation

from common.images import IMAGENET
from methods.oracles.word_by_word import WordByWord

TINY: dict[str, Any] = {
    "vision_config": {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "image_size": 64,
        "patch_size": 16,
    },
    "text_config": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2},
    "projection_dim": 32,
    "extract_layers": [0, 1, 2],
    "reduce_dim": 16,
    "decoder_num_attention_heads": 2,
    "decoder_intermediate_size": 32,
}


class CLIPSeg(WordByWord):
    """``hf-hub:CIDAS/clipseg-rd64-refined`` and its relatives, by words; its prompts of pictures are not asked."""

    mean, std = IMAGENET
    text_length = 77

    @staticmethod
    def tiny() -> CLIPSegForImageSegmentation:
        return CLIPSegForImageSegmentation(CLIPSegConfig(**TINY))

    @staticmethod
    def load(folder: str) -> CLIPSegForImageSegmentation:
        return CLIPSegForImageSegmentation.from_pretrained(folder, use_safetensors=True)

    @property
    def side(self) -> int:
        """352 as published: the processor's size, which the position table is resized to."""
        patch = self.model.config.vision_config.patch_size
        return 22 * patch if self.pretrained_parts else int(self.model.config.vision_config.image_size)

    def embed(self, ids: Tensor, real: Tensor) -> tuple[Tensor, ...]:
        return (self.model.get_conditional_embeddings(len(ids), input_ids=ids),)

    def encode(self, pixels: Tensor) -> list[Tensor]:
        """The states after the layers that the decoder reads, (1, 1 + L, d) each."""
        states = self.model.clip.vision_model(pixels, interpolate_pos_encoding=True, output_hidden_states=True).hidden_states
        return [states[layer + 1] for layer in self.model.extract_layers]  # the first is what enters

    def probabilities(self, encoded: list[Tensor], text: tuple[Tensor, ...]) -> Tensor:
        (words_qC,) = text
        logits: Tensor = self.model.decoder([state.expand(len(words_qC), -1, -1) for state in encoded], words_qC).logits
        return logits.sigmoid()
