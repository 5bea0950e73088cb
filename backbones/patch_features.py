"""The second tower: what a frozen self-supervised ViT (DINO, DINOv2, DINOv3) says of patches, for methods that compare them.

Shapes: B pictures, (h, w) patch grid, C width.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
import transformers
from torch import Tensor, nn

from backbones.clip import CHECKPOINTS, resize_positions
from backbones.transformers_families import library_weights, model_folder
from backbones.transformers_tower import normalisation
from common.errors import known

TINY = "tiny_dino"  # shipped, see methods/pretraining/dino.py
LIBRARY = {  # model_type -> class of transformers
    "vit": "ViTModel",
    "dinov2": "Dinov2Model",
    "dinov2_with_registers": "Dinov2WithRegistersModel",
    "dinov3_vit": "DINOv3ViTModel",
}
PINNED = {  # commits with weights as safetensors
    "facebook/dino-vitb8": "6bd5b7757e4224b035fe579f31fb816985e18e35",
    "facebook/dino-vits8": "483f2fc47097ae6f0afc8bcfb43004224bddeae2",
}


PROJECTIONS = {"keys": ("k_proj",), "values": ("v_proj",), "queries + keys": ("q_proj", "k_proj")}  # names end so; summed
Part = Literal["tokens", "keys", "values", "queries + keys"]


class PatchFeatures(nn.Module):
    """A frozen self-supervised ViT of transformers.

    Args:
        name: in messages.
        model: as transformers made it.
        mean: (3, 1, 1) of its pictures.
        std: (3, 1, 1).
    """

    mean: Tensor
    std: Tensor

    def __init__(self, name: str, model: Any, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.name, self.model = name, model.float()
        self.register_buffer("mean", mean)  # into the state, and so into the hash of the weights
        self.register_buffer("std", std)
        if model.config.model_type == "vit":
            model.embeddings.interpolate_pos_encoding = partial(dino_positions, model.embeddings)
        self.requires_grad_(False).eval()

    @property
    def stride(self) -> int:
        """Pixels per patch."""
        return int(self.model.config.patch_size)

    @property
    def heads(self) -> int:
        """Of its attention."""
        return int(self.model.config.num_attention_heads)

    @property
    def prefix(self) -> int:
        """Tokens in front of the patches: the class token and registers."""
        return 1 + int(getattr(self.model.config, "num_register_tokens", 0))

    def forward(self, images: Tensor, part: Part = "tokens") -> Tensor:
        """Features (B, C, h, w), not normalised; a side that is no whole number of patches is enlarged to the next.

        Args:
            images: (B, 3, H, W) in [0, 1].
            part: the last tokens after the final norm, or of the last block its keys, its values or the sum of its queries and
                keys, heads one after the other.
        """
        pixels = self.pixels(images)
        found = self.tokens(pixels) if part == "tokens" else self._of_last_block(pixels, part)
        grid = tuple(side // self.stride for side in pixels.shape[2:])
        return found[:, self.prefix :].transpose(1, 2).unflatten(2, grid)

    def pixels(self, images: Tensor) -> Tensor:
        """Normalised pictures of whole patches."""
        size = [-(-side // self.stride) * self.stride for side in images.shape[2:]]
        if size != [*images.shape[2:]]:
            images = F.interpolate(images, size, mode="bicubic", align_corners=False).clamp(0, 1)
        return (images - self.mean) / self.std

    def tokens(self, pixels: Tensor, **options: Any) -> Tensor:
        """The last tokens (B, prefix + n, C) of normalised pictures, after the final norm."""
        if self.model.config.model_type == "vit":
            options["interpolate_pos_encoding"] = True  # the others do so without being asked
        last: Tensor = self.model(pixels, **options).last_hidden_state
        return last

    def _of_last_block(self, pixels: Tensor, part: str) -> Tensor:
        seen: list[Tensor] = []
        hooks = []
        for ending in PROJECTIONS[part]:
            *_, projection = (module for name, module in self.model.named_modules() if name.endswith(ending))
            hooks.append(projection.register_forward_hook(lambda _module, _inputs, output: seen.append(output)))
        try:
            self.tokens(pixels)
        finally:
            for hook in hooks:
                hook.remove()
        return torch.stack(seen).sum(0)


def dino_positions(embeddings: Any, tokens: Tensor, height: int, width: int) -> Tensor:
    """DINO's own resizing of positions, by a factor to (side + 0.1) / native side, where transformers resizes to a size."""
    native = round((embeddings.position_embeddings.shape[1] - 1) ** 0.5)
    grid = (height // embeddings.patch_size, width // embeddings.patch_size)
    return resize_positions(embeddings.position_embeddings[0], (native, native), grid, "scaled_bicubic")[None]


def load_patch_features(model: str = TINY, pretrained: bool = True, revision: str | None = None) -> PatchFeatures:
    """A frozen second tower.

    Args:
        model: ``tiny_dino``, a repository ``owner/name`` of the hub, or a folder like one: config.json,
            preprocessor_config.json and weights as safetensors.
        pretrained: False for random weights.
        revision: commit of a repository, unless one is known here.

    Raises:
        UserError: no such model, or of another family, weights of another model, no network.
    """
    source = str(CHECKPOINTS / TINY) if model == TINY else model
    folder, kind, _ = model_folder(model, source, revision or PINNED.get(source), "dino_revision")
    library: Any = getattr(transformers, LIBRARY[known(f"model_type of '{model}'", kind, LIBRARY)])
    without = {"add_pooling_layer": False} if kind == "vit" else {}  # of a classifier's; DINO has none
    if pretrained:
        found = library_weights(library, folder, model, **without)
    else:
        found = library(library.config_class.from_pretrained(folder), **without)
    return PatchFeatures(model, found, *normalisation(folder))
