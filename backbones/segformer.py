"""SegFormer (NeurIPS 2021) of transformers, as pictures in [0, 1] -> pixel features at a stride of 4."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import SegformerConfig, SegformerForSemanticSegmentation

from common.errors import UserError, in_one_line, known
from common.images import IMAGENET

SEGFORMERS: dict[str, dict[str, Any]] = {
    "segformer_embedded": {
        "depths": [1, 1, 1, 1],
        "hidden_sizes": [32, 48, 64, 96],
        "num_attention_heads": [1, 1, 2, 3],
        "sr_ratios": [4, 2, 1, 1],
        "mlp_ratios": [2, 2, 2, 2],
        "decoder_hidden_size": 96,
    },
    "segformer_b0": {},  # transformers' defaults
}


class SegFormer(nn.Module):
    """See the module.

    Args:
        name: one of ``SEGFORMERS``.
        channels: of the output.
        weights: of the encoder, ``nvidia/mit-b0`` or a folder; None for random ones.
        revision: commit of the repository.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, name: str, channels: int, weights: str | None = None, revision: str | None = None) -> None:
        super().__init__()
        known("segmentation network", name, SEGFORMERS)
        if weights is None:
            self.network: Any = SegformerForSemanticSegmentation(SegformerConfig(**SEGFORMERS[name] | {"num_labels": channels}))
        else:
            self.network = _published(weights, revision, channels)
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in IMAGENET)
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("std", std, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, channels, H / 4, W / 4)."""
        out: Tensor = self.network((images - self.mean) / self.std).logits
        return out


def _published(weights: str, revision: str | None, channels: int) -> Any:
    try:
        return SegformerForSemanticSegmentation.from_pretrained(
            weights, revision=revision or "main", num_labels=channels, use_safetensors=True
        )
    except Exception as error:
        raise UserError(f"network weights '{weights}' cannot be loaded: {in_one_line(error)}") from error
