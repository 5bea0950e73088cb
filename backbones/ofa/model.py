"""OFA: one encoder over picture cells and text, one decoder that writes text or, for IFSeg, names every cell of a map.

A *cell* is a place of the trunk's grid (h, w). What fills it is either the trunk's feature, projected (a picture), or the
embedding of a class name (a word map): the rest of the network does not know which.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbones.ofa import positions
from backbones.ofa.config import BOS, PAD, OFAConfig
from backbones.ofa.layers import DecoderLayer, EncoderLayer
from backbones.ofa.trunk import Trunk


@dataclass
class Encoded:
    """What the decoder reads: ``states`` (B, L + T, d), ``positions`` (L + T, d), ``padding_mask`` (1 or B, L + T)."""

    states: Tensor
    positions: Tensor
    padding_mask: Tensor
    grid: tuple[int, int]

    @property
    def cells(self) -> Tensor:
        """(B, L, d)."""
        return self.states[:, : self.grid[0] * self.grid[1]]


class Encoder(nn.Module):
    def __init__(self, config: OFAConfig, dropout: float, drop_path: float, frozen_trunk: bool) -> None:
        super().__init__()
        c, d = config, config.width
        self.config, self.dropout = config, dropout
        self.embed_tokens = nn.Embedding(c.vocabulary, d, padding_idx=PAD)
        self.type_embedding = nn.Embedding(2, d)
        self.embed_images = Trunk(c.trunk_blocks, c.trunk_width, c.trunk_pool, frozen_trunk)
        self.image_proj = nn.Linear(self.embed_images.channels, d)
        self.embed_positions = nn.Embedding(c.text_positions + 2, d)
        self.embed_image_positions = nn.Embedding(c.image_side**2 + 1, d)
        self.layernorm_embedding, self.patch_layernorm_embedding = nn.LayerNorm(d), nn.LayerNorm(d)
        self.pos_ln, self.image_pos_ln = nn.LayerNorm(d), nn.LayerNorm(d)
        self.pos_q_linear, self.pos_k_linear = nn.Linear(d, d), nn.Linear(d, d)
        rates = np.linspace(0, drop_path, c.encoder_layers).tolist()
        self.layers = nn.ModuleList(EncoderLayer(d, c.hidden, c.heads, dropout, rate) for rate in rates)
        self.token_rel_pos_table_list = _tables(c.encoder_layers, 2 * c.text_buckets - 1, c.heads)
        self.image_rel_pos_table_list = _tables(c.encoder_layers, (2 * c.image_side - 1) ** 2 + 3, c.heads)
        self.layer_norm = nn.LayerNorm(d)

    def forward(self, cells: Tensor, grid: tuple[int, int], text: Tensor) -> Encoded:
        """Cells (B, L, d) in raster order, then text (1 or B, T) of piece ids, padded with ``PAD``."""
        cells = self.patch_layernorm_embedding(cells + self.type_embedding.weight[1])
        words = self.layernorm_embedding(self.embed_tokens(text) + self.type_embedding.weight[0])
        padding_mask = F.pad(text == PAD, (cells.shape[1], 0))
        x = F.dropout(torch.cat([cells, words.expand(len(cells), -1, -1)], 1), self.dropout, self.training)
        x = x * ~padding_mask[:, :, None]
        rows = torch.cat(
            [self.image_pos_ln(self._image_rows(*grid)), self.pos_ln(self.embed_positions.weight[: text.shape[1]])]
        )
        for layer, bias in zip(self.layers, self.biases(rows, grid, padding_mask), strict=True):
            x = layer(x, bias)
        return Encoded(self.layer_norm(x), rows, padding_mask, grid)

    def biases(self, rows: Tensor, grid: tuple[int, int], padding_mask: Tensor) -> Iterator[Tensor]:
        """Per layer (1 or B, H, L + T, L + T): absolute, relative among cells and among pieces, -inf for padding."""
        c, length = self.config, grid[0] * grid[1]
        absolute = positions.absolute_bias(self.pos_q_linear, self.pos_k_linear, rows, rows, c.heads)
        absolute = absolute[None].masked_fill(padding_mask[:, None, None], -torch.inf)
        kept = torch.empty_like(absolute)  # for all layers where no gradient needs each: fresh memory costs more than the sum
        for image_table, text_table in zip(self.image_rel_pos_table_list, self.token_rel_pos_table_list, strict=True):
            bias = absolute.clone() if torch.is_grad_enabled() else kept.copy_(absolute)
            bias[..., :length, :length] += positions.grid_bias(image_table, c.grid, c.image_side, *grid)
            bias[..., length:, length:] += positions.text_bias(text_table, len(rows) - length, c.text_buckets, c.text_positions)
            yield bias

    def _image_rows(self, height: int, width: int) -> Tensor:
        """(L, d): a smaller grid takes its rows from the corner of the learnt ones; one they do not hold is resized to."""
        c = self.config
        resized = height * width > c.grid**2 or max(height, width) > c.image_side
        h, w = (c.grid, c.grid) if resized else (height, width)
        ids = torch.arange(h)[:, None] * c.image_side + torch.arange(w) + 1
        rows = self.embed_image_positions.weight[ids.flatten().to(self.type_embedding.weight.device)]
        return positions.resize_rows(rows, c.grid, height, width) if resized else rows


class Decoder(nn.Module):
    def __init__(self, config: OFAConfig, dropout: float, drop_path: float) -> None:
        super().__init__()
        c, d = config, config.width
        self.config, self.dropout = config, dropout
        self.embed_positions = nn.Embedding(c.text_positions + 2, d)
        self.embed_image_positions = nn.Embedding(c.image_side**2 + 1, d)  # for drawing pictures: loaded, not used
        self.embed_seg_positions = nn.Embedding(c.grid**2 + 1, d)
        self.layernorm_embedding, self.code_layernorm_embedding = nn.LayerNorm(d), nn.LayerNorm(d)
        self.pos_ln, self.image_pos_ln, self.seg_pos_ln = (nn.LayerNorm(d) for _ in range(3))
        self.self_pos_q_linear, self.self_pos_k_linear = nn.Linear(d, d), nn.Linear(d, d)
        self.cross_pos_q_linear, self.cross_pos_k_linear = nn.Linear(d, d), nn.Linear(d, d)
        rates = np.linspace(0, drop_path, c.decoder_layers).tolist()
        self.layers = nn.ModuleList(DecoderLayer(d, c.hidden, c.heads, dropout, rate) for rate in rates)
        self.token_rel_pos_table_list = _tables(c.decoder_layers, 2 * c.text_buckets - 1, c.heads)
        self.image_rel_pos_table_list = _tables(c.decoder_layers, (2 * c.image_side - 1) ** 2 + 3, c.heads)
        self.seg_rel_pos_table_list = _tables(c.decoder_layers, (2 * c.grid - 1) ** 2 + 3, c.heads)
        self.layer_norm = nn.LayerNorm(d)

    def forward(self, x: Tensor, rows: Tensor, relative: Iterable[Tensor], encoded: Encoded, causal: bool = True) -> Tensor:
        """Embeddings (B, P, d) with position rows (P, d) and relative biases (H, P, P) -> features (B, P, d).

        The biases are added to in place.
        """
        x = F.dropout(self.layernorm_embedding(x), self.dropout, self.training)
        heads, length = self.config.heads, x.shape[1]
        own = positions.absolute_bias(self.self_pos_q_linear, self.self_pos_k_linear, rows, rows, heads)
        cross = positions.absolute_bias(self.cross_pos_q_linear, self.cross_pos_k_linear, rows, encoded.positions, heads)
        cross = cross[None].masked_fill(encoded.padding_mask[:, None, None], -torch.inf)
        if causal:
            own = own.masked_fill(torch.ones(length, length, dtype=torch.bool, device=x.device).triu(1), -torch.inf)
        for layer, bias in zip(self.layers, relative, strict=True):
            x = layer(x, bias.add_(own)[None], encoded.states, cross)
        features: Tensor = self.layer_norm(x)
        return features

    def map_rows(self, height: int, width: int) -> Tensor:
        """(1 + L, d): the start token's row and the cells', normalised."""
        start, cells = self.embed_seg_positions.weight.split([1, self.config.grid**2])
        if (height, width) != (self.config.grid, self.config.grid):
            cells = positions.resize_rows(cells, self.config.grid, height, width)
        rows: Tensor = self.seg_pos_ln(torch.cat([start, cells]))
        return rows


class OFA(nn.Module):
    """See the module.

    Args:
        size_or_config: ``"base"`` and the other published sizes, ``"embedded"``, or a configuration.
        dropout: of embeddings and branches, in training.
        drop_path: of the last layer's branches; it grows from 0 over the layers.
        frozen_trunk: batch norm as a fixed affine map.
    """

    def __init__(
        self, size_or_config: str | OFAConfig, dropout: float = 0.1, drop_path: float = 0.1, frozen_trunk: bool = True
    ) -> None:
        super().__init__()
        config = OFAConfig.named(size_or_config) if isinstance(size_or_config, str) else size_or_config
        self.config = config
        self.encoder = Encoder(config, dropout, drop_path, frozen_trunk)
        self.decoder = Decoder(config, dropout, drop_path)
        self.apply(_initialise)

    @property
    def words(self) -> Tensor:
        """The embedding of all pieces (V, d), shared by encoder, decoder and text output."""
        return self.encoder.embed_tokens.weight

    def trunk(self, images: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) in [0, 1] -> features (B, C, h, w); normalised to [-1, 1], not by ImageNet's statistics."""
        features: Tensor = self.encoder.embed_images(images * 2 - 1)
        return features

    def encode_features(self, features: Tensor, text: Tensor) -> Encoded:
        """Trunk features (B, C, h, w) and text (1 or B, T)."""
        cells = self.encoder.image_proj(features.flatten(2).transpose(1, 2))
        encoded: Encoded = self.encoder(cells, (features.shape[2], features.shape[3]), text)
        return encoded

    def encode_map(self, cells: Tensor, text: Tensor) -> Encoded:
        """A word map: embeddings (B, h, w, d) take the place of the projected features."""
        encoded: Encoded = self.encoder(cells.flatten(1, 2), (cells.shape[1], cells.shape[2]), text)
        return encoded

    def decode_map(self, encoded: Encoded, causal: bool = True) -> Tensor:
        """Features (B, L, d), row i about cell i: the decoder's input is <s> and the encoder's cells, one step behind.

        The last position, whose input is the last cell, predicts nothing and is dropped (IFSeg, the surrogate decoder input).
        """
        c = self.config
        start = self.words[BOS].expand(len(encoded.states), 1, -1)
        relative = (positions.map_bias(table, *encoded.grid, c.grid) for table in self.decoder.seg_rel_pos_table_list)
        x = torch.cat([start, encoded.cells], 1)
        features: Tensor = self.decoder(x, self.decoder.map_rows(*encoded.grid), relative, encoded, causal)[:, :-1]
        return features

    def decode_text(self, encoded: Encoded, previous: Tensor) -> Tensor:
        """Features (B, P, d) of the piece after each of ``previous`` (B, P); times ``words`` transposed they are logits."""
        c, decoder = self.config, self.decoder
        length = previous.shape[1]
        rows = decoder.pos_ln(decoder.embed_positions.weight[:length])
        tables = decoder.token_rel_pos_table_list
        relative = (positions.text_bias(table, length, c.text_buckets, c.text_positions) for table in tables)
        features: Tensor = decoder(self.encoder.embed_tokens(previous), rows, relative, encoded)
        return features


def _tables(layers: int, buckets: int, heads: int) -> nn.ModuleList:
    return nn.ModuleList(nn.Embedding(buckets, heads) for _ in range(layers))


def _initialise(module: nn.Module) -> None:
    """BERT's: N(0, 0.02) for weights and embeddings, position tables too; 0 for biases."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)
    if isinstance(module, nn.Embedding) and module.padding_idx is not None:
        nn.init.zeros_(module.weight[module.padding_idx].detach())
