"""CLIP through open_clip: pictures -> dense tokens under an attention rule, words -> embeddings (cached on disk).

Shapes: B pictures, (h, w) patch grid, n = h*w, D transformer width, C joint embedding, K words.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from open_clip.transformer import ResidualAttentionBlock, VisionTransformer
from torch import Tensor

from backbones.attention import RULES, Heads, LayersRule, Rule, rule_named
from backbones.blocks import Layers, heads_of, joined
from backbones.open_clip_model import CHECKPOINTS, EMBEDDED, OpenCLIPModel

__all__ = ["CHECKPOINTS", "CLIP", "EMBEDDED"]


class CLIP(OpenCLIPModel):
    """A frozen CLIP with a plain ViT, see :class:`backbones.open_clip_model.OpenCLIPModel`."""

    rules = RULES
    has_positions = True
    unreadable = "has no plain ViT image tower; the attention rules need one, as in ViT-B-16."

    @staticmethod
    def reads(visual: Any) -> bool:
        return isinstance(visual, VisionTransformer) and visual.attn_pool is None

    @property
    def visual(self) -> VisionTransformer:
        return cast(VisionTransformer, self.clip.visual)

    @property
    def blocks(self) -> list[ResidualAttentionBlock]:
        return [cast(ResidualAttentionBlock, block) for block in self.visual.transformer.resblocks]

    @property
    def stride(self) -> int:
        """Pixels per token."""
        return int(self.visual.patch_size[0])

    @property
    def native_side(self) -> int:
        return int(self.visual.image_size[0])

    @property
    def channels(self) -> int:
        return int(self.visual.output_dim)

    def tokens(
        self,
        images: Tensor,
        rule: str = "clip",
        position_resize: str = "scaled_bicubic",
        pooled: bool = False,
        projection: Tensor | None = None,
    ) -> tuple[Tensor | None, Tensor]:
        """See :class:`DenseTower`; the image embedding is that of the unchanged model.

        ``projection`` (D, C) takes the place of CLIP's own for the dense tokens (ICLIP's dual projections).
        """
        whole, stream, grid = self.stream(images, rule, position_resize, pooled)
        return whole, self.unit_patches(stream, grid, projection)

    def stream(
        self, images: Tensor, rule: str, position_resize: str, pooled: bool = False
    ) -> tuple[Tensor | None, Tensor, tuple[int, int]]:
        """What :meth:`tokens` projects, (B, 1 + n, D) under the rule, between the image embedding and the grid."""
        x, grid = self.embed_patches(images, position_resize)
        x, stream = self._run(x, grid, rule_named(rule), keep_original=pooled)
        return self.pool(x) if pooled else None, stream, grid

    def layers(self, images: Tensor, position_resize: str) -> Layers:
        """The blocks before the last, which has not run."""
        return self._layers(*self.embed_patches(images, position_resize))

    def _layers(self, x: Tensor, grid: tuple[int, int]) -> Layers:
        *before, last = self.blocks
        embedded = x
        return Layers([x := block(x) for block in before], last, grid, embedded)

    def embed_image(self, images: Tensor, unit: bool = True) -> Tensor:
        """Image embeddings (B, C), unit-norm or as they are, of images (B, 3, H, W) in [0, 1]."""
        return self.pool(self.encode(images, "bicubic")[0], unit)

    def encode(self, images: Tensor, position_resize: str) -> tuple[Tensor, tuple[int, int]]:
        """Tokens after the unchanged transformer, (B, 1 + n, D), and the grid."""
        x, grid = self.embed_patches(images, position_resize)
        for block in self.blocks:
            x = block(x)
        return x, grid

    def pool(self, x: Tensor, unit: bool = True) -> Tensor:
        """Image embeddings (B, C), unit-norm or as they are, of the transformer's tokens (B, 1 + n, D)."""
        pooled = (self.visual._pool(x)[0] @ self.visual.proj).float()
        return F.normalize(pooled, dim=-1) if unit else pooled

    def embed_patches(self, images: Tensor, position_resize: str) -> tuple[Tensor, tuple[int, int]]:
        """What the first block sees, (B, 1 + n, D), and the grid.

        Pixels to the right and below that make no whole patch are dropped, and the grid stands for the whole image, as in the
        published code of SCLIP and NACLIP. A side shorter than a patch is resized to one.
        """
        images = self.at_least_a_patch(images)
        patches = self.visual.conv1((images - self.mean) / self.std)
        grid = (patches.shape[2], patches.shape[3])
        x = torch.cat([self.visual.class_embedding.expand(images.shape[0], 1, -1), patches.flatten(2).transpose(1, 2)], 1)
        table = resize_positions(self.visual.positional_embedding, self.visual.grid_size, grid, position_resize)
        return self.visual.ln_pre(x + table), grid

    def at_least_a_patch(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) whose sides are no shorter than a patch, resized where they are."""
        height, width = (max(side, self.stride) for side in images.shape[-2:])
        if (height, width) == tuple(images.shape[-2:]):
            return images
        return F.interpolate(images, (height, width), mode="bilinear", align_corners=False)

    def _run(self, x: Tensor, grid: tuple[int, int], rule: Rule | LayersRule, keep_original: bool) -> tuple[Tensor, Tensor]:
        """The transformer: (unchanged stream if kept, stream of the rule), both (B, 1 + n, D)."""
        if isinstance(rule, LayersRule):
            layers = self._layers(x, grid)
            x = layers.tokens[-1]
            return layers.last(x) if keep_original else x, rule.read(layers)
        depth = min(rule.depth, len(self.blocks) - 1)  # a shallow model keeps at least one plain block
        for block in self.blocks[:-depth]:
            x = block(x)
        stream = x if rule.residual else torch.zeros_like(x)
        for i, block in enumerate(self.blocks[-depth:], 1):
            stream = _add_block(block, x, stream, grid, rule)
            if i < depth or keep_original:
                x = block(x)
        return x, stream

    def last_block(self, x: Tensor, grid: tuple[int, int], rule: Rule) -> Tensor:
        """What a rule of depth 1 makes of the last block's input; both (B, 1 + n, D)."""
        return _add_block(self.blocks[-1], x, x if rule.residual else torch.zeros_like(x), grid, rule)

    def project(self, x: Tensor, projection: Tensor | None = None) -> Tensor:
        """Final LayerNorm and projection of every token: (B, 1 + n, D) -> (B, 1 + n, C)."""
        return self.visual.ln_post(x) @ (self.visual.proj if projection is None else projection)

    def unit_patches(self, x: Tensor, grid: tuple[int, int], projection: Tensor | None = None) -> Tensor:
        """Dense tokens (B, C, h, w) of a stream (B, 1 + n, D): projected, without the class token, of length 1."""
        return F.normalize(self.project(x, projection)[:, 1:], dim=-1).transpose(1, 2).unflatten(2, grid)

    def class_attention(self, images: Tensor) -> Tensor:
        """(B, n) the last block's attention of the class token to the patches, mean over heads."""
        x, _ = self.embed_patches(images, "bicubic")
        for block in self.blocks[:-1]:
            x = block(x)
        last = self.blocks[-1]
        h = last.ln_1(x)
        return cast(Tensor, last.attn(h[:, :1], h, h, need_weights=True)[1][:, 0, 1:])


def _add_block(block: ResidualAttentionBlock, x: Tensor, stream: Tensor, grid: tuple[int, int], rule: Rule) -> Tensor:
    """The stream plus what a block makes of x under the rule, all (B, 1 + n, D)."""
    h = block.ln_1(x)
    stream = stream + block.ls_1(joined(block, rule.mix(Heads(*heads_of(block, h), h, grid))))
    return stream + block.ls_2(block.mlp(block.ln_2(stream))) if rule.feed_forward else stream


def resize_positions(table: Tensor, native: tuple[int, int], grid: tuple[int, int], how: str) -> Tensor:
    """Brings a position table (1 + h0*w0, D) to another grid, always from the original; row 0 (class token) stays.

    Args:
        table: learned positions.
        native: (h0, w0).
        grid: (h, w).
        how: see ``Protocol.position_resize``.
    """
    if grid == tuple(native):
        return table
    image_1Dhw = table[1:].T.unflatten(1, tuple(native))[None]
    if how == "scaled_bicubic":
        factor = ((grid[0] + 0.1) / native[0], (grid[1] + 0.1) / native[1])
        resized = F.interpolate(image_1Dhw, scale_factor=factor, mode="bicubic", align_corners=False)
    else:
        mode = "bilinear" if how == "bilinear" else "bicubic"
        resized = F.interpolate(image_1Dhw, grid, mode=mode, align_corners=False, antialias=how == "antialias")
    return torch.cat([table[:1], resized[0].flatten(1).T])
