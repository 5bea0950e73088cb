"""ProxyCLIP (ECCV 2024): where a frozen DINO finds patches alike, CLIP's values are mixed.

CLIP's last block keeps its values v; what mixes them is not its own attention but the likeness of DINO's patches, on DINO's
finer grid.

Shapes: B pictures, (h, w) CLIP's patch grid, n = h*w, (I, J) DINO's, D width, C joint embedding, K words.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from backbones.blocks import Layers, values_mixed
from backbones.clip import CLIP
from methods.second_tower import SecondTower

SHIFT, SHARPNESS = 1.2, 3.0  # beta, gamma


class ProxyCLIP(SecondTower):
    """See the module; the paper's second tower is facebook/dino-vitb8.

    Args:
        options: as of :class:`methods.second_tower.SecondTower`.
    """

    backbone: CLIP

    def __init__(self, **options: Any) -> None:
        super().__init__(rule="clip", **options)
        self.check_clip()

    def forward(self, images: Tensor) -> Tensor:
        return self.score_with_features(images)[0]

    def score_with_features(self, images: Tensor) -> tuple[Tensor, Tensor]:
        layers = self.backbone.layers(images, self.protocol.windows.position_resize)
        features = self.patch_features(images)
        tokens = self.backbone.project(mixed_by(features, layers))
        dense = F.normalize(tokens, dim=-1).transpose(1, 2).unflatten(2, features.shape[2:])
        return torch.einsum("bchw,qc->bqhw", dense, self.text_QC), features

    def patch_features(self, images: Tensor) -> Tensor:
        """DINO's last tokens, (B, C, I, J), of what CLIP sees: whole patches of its own."""
        height, width = (max(side // self.backbone.stride, 1) * self.backbone.stride for side in images.shape[2:])
        return self.dino(images[:, :, :height, :width])


def mixed_by(features: Tensor, layers: Layers) -> Tensor:
    """CLIP's last block with proxy attention in place of its own, no residual and no MLP: (B, I*J, D).

    Args:
        features: (B, C, I, J) of the second tower.
        layers: CLIP before its last block.
    """
    grid = (features.shape[2], features.shape[3])
    return values_mixed(layers, layers.tokens[-1], proxy_attention(features), grid)


def proxy_attention(features: Tensor) -> Tensor:
    """(B, I*J, I*J) of features (B, C, I, J): what is less alike than usual is masked (section 3.2, eq. 5 and 6).

    The mean is a picture's own. Where all of a picture is alike, everything would be masked (NaN in the released code); a patch
    then keeps to itself (INFERRED).
    """
    unit = F.normalize(features.flatten(2), dim=1)
    alike = unit.transpose(1, 2) @ unit
    logits = SHARPNESS * (alike - SHIFT * alike.mean((1, 2), keepdim=True))
    itself = torch.eye(logits.shape[1], dtype=torch.bool, device=logits.device)
    return logits.masked_fill((logits < 0) & ~itself, float("-inf")).softmax(-1)
