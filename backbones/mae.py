"""Masked autoencoder (CVPR 2022): transformers' ViTMAE, fed with pictures in [0, 1], at any size, without the class token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import ViTMAEConfig, ViTMAEForPreTraining

from backbones.clip import CLIP
from backbones.mae_loading import initialise, load
from common.errors import UserError, known
from common.images import IMAGENET

SIZES: dict[str, dict[str, Any]] = {
    "embedded": {
        "hidden_size": 192,
        "num_hidden_layers": 3,
        "num_attention_heads": 3,
        "intermediate_size": 768,
        "image_size": 64,
        "patch_size": 8,
        "decoder_hidden_size": 96,
        "decoder_num_hidden_layers": 1,
        "decoder_num_attention_heads": 3,
        "decoder_intermediate_size": 384,
    },
    "base": {},  # transformers' defaults are MAE's ViT-B/16
}


@dataclass(frozen=True)
class Latent:
    """The visible part of images.

    Attributes:
        tokens: (B, 1 + n, D), class token first.
        mask: (B, L), 1 where a patch is hidden.
        ids_restore: (B, L), the place of every patch in the shuffled order.
        grid: patches along height and width.
    """

    tokens: Tensor
    mask: Tensor
    ids_restore: Tensor
    grid: tuple[int, int]


class MAE(nn.Module):
    """Encoder and decoder.

    Args:
        size: ``base`` as published, or ``embedded``.
        weights: ``facebook/vit-mae-base``, a folder of its files, or facebookresearch/mae's own file; None for random ones.
        revision: commit of the repository.
        norm_pix_loss: the decoder predicts pixels normalised per patch.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, size: str = "base", weights: str | None = None, revision: str | None = None, norm_pix_loss: bool = False
    ) -> None:
        super().__init__()
        config: Any = ViTMAEConfig(
            **SIZES[known("MAE size", size, SIZES)], norm_pix_loss=norm_pix_loss, hidden_dropout_prob=0.0
        )
        config._attn_implementation = "sdpa"
        self.model: Any = ViTMAEForPreTraining(config)
        initialise(self.model)
        if weights is not None:
            load(self.model, weights, revision)
        self.ln_pre: nn.Module = nn.Identity()  # in front of the first block; a CLIP has a LayerNorm there
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in IMAGENET)
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    @property
    def width(self) -> int:
        return int(self.model.config.hidden_size)

    @property
    def heads(self) -> int:
        return int(self.model.config.num_attention_heads)

    @property
    def stride(self) -> int:
        return int(self.model.config.patch_size)

    def encoder_parameters(self) -> dict[str, nn.Parameter]:
        """What is trained of the encoder, without the decoder, by name."""
        return {name: p for name, p in self.named_parameters() if p.requires_grad and not name.startswith("model.decoder.")}

    def encode(self, images: Tensor, noise: Tensor | None = None, mask_ratio: float = 0.0) -> Latent:
        """Encodes the patches of images (B, 3, H, W) whose noise (B, L) is lowest; all of them in order without noise."""
        stride = self.stride
        whole = F.pad(images, (0, -images.shape[3] % stride, 0, -images.shape[2] % stride), mode="replicate")
        pixels = (whole - self.mean) / self.std
        grid = (pixels.shape[2] // stride, pixels.shape[3] // stride)
        if noise is None:
            noise = torch.arange(grid[0] * grid[1], device=images.device).float().expand(images.shape[0], -1)
        vit = self.model.vit
        vit.config.mask_ratio = mask_ratio
        x, mask, ids_restore = vit.embeddings(pixels, noise, interpolate_pos_encoding=True)
        x = self.ln_pre(x)
        for layer in vit.layers:
            x = layer(x)
        return Latent(vit.layernorm(x), mask, ids_restore, grid)

    def reconstruction_loss(self, images: Tensor, latent: Latent) -> Tensor:
        """Mean squared error of the hidden patches' pixels, 0 if none is; images of the size that the model was made for."""
        pixels = (images - self.mean) / self.std
        predicted = self.model.decoder(latent.tokens, latent.ids_restore).logits.float()
        target = self.model.patchify(pixels)
        if self.model.config.norm_pix_loss:
            target = (target - target.mean(-1, keepdim=True)) / (target.var(-1, keepdim=True) + 1e-6).sqrt()
        loss: Tensor = ((predicted - target).square().mean(-1) * latent.mask).sum() / latent.mask.sum().clamp_min(1)
        return loss

    @torch.no_grad()
    def start_from(self, clip: CLIP) -> None:
        """Copies a CLIP's image transformer into the encoder.

        Raises:
            UserError: another width, depth or patch.
        """
        visual, vit = clip.visual, self.model.vit
        ours = (self.width, len(vit.layers), self.stride)
        theirs = (visual.transformer.width, len(clip.blocks), clip.stride)
        if ours != theirs:
            raise UserError(
                f"the student's (width, layers, patch) are {ours}, the teacher's {theirs}; it cannot start from the teacher. "
                "Choose a teacher of the same size, or --model.encoder_init random."
            )
        self.mean.copy_(clip.mean)
        self.std.copy_(clip.std)
        self.ln_pre = nn.LayerNorm(self.width)
        self.ln_pre.load_state_dict(visual.ln_pre.state_dict())
        embeddings = vit.embeddings
        embeddings.patch_embeddings.projection.weight.copy_(visual.conv1.weight)
        embeddings.patch_embeddings.projection.bias.zero_()
        embeddings.cls_token.copy_(visual.class_embedding[None, None])
        embeddings.position_embeddings.copy_(visual.positional_embedding[None])
        for layer, block in zip(vit.layers, clip.blocks, strict=True):
            _copy_block(layer, block)
        vit.layernorm.load_state_dict(visual.ln_post.state_dict())


def _copy_block(layer: Any, block: Any) -> None:
    """open_clip's residual block into transformers' ViT layer."""
    attention = layer.attention
    for i, projection in enumerate((attention.q_proj, attention.k_proj, attention.v_proj)):
        projection.weight.copy_(block.attn.in_proj_weight.chunk(3)[i])
        projection.bias.copy_(block.attn.in_proj_bias.chunk(3)[i])
    attention.o_proj.load_state_dict(block.attn.out_proj.state_dict())
    layer.layernorm_before.load_state_dict(block.ln_1.state_dict())
    layer.layernorm_after.load_state_dict(block.ln_2.state_dict())
    layer.mlp.activation_fn = block.mlp.gelu
    layer.mlp.fc1.load_state_dict(block.mlp.c_fc.state_dict())
    layer.mlp.fc2.load_state_dict(block.mlp.c_proj.state_dict())
