"""The sizes of OFA."""

from __future__ import annotations

from dataclasses import dataclass

from common.errors import known

BOS, PAD, EOS, UNK = 0, 1, 2, 3


@dataclass(frozen=True)
class OFAConfig:
    """What fixes the shapes of an OFA.

    Attributes:
        width: d, of the transformer.
        hidden: of the feed-forward parts.
        heads: of the attention.
        encoder_layers: blocks of the encoder.
        decoder_layers: blocks of the decoder.
        trunk_blocks: bottlenecks in the three stages of the ResNet.
        trunk_width: channels of its first stage's bottlenecks; it gives 16 times as many.
        trunk_pool: max pooling after the first convolution: stride 16 in all, without it 8.
        vocabulary: rows of the word embedding: <s> <pad> </s> <unk>, BPE pieces, <mask>, <code_i>, <bin_i>.
        text_positions: length of the longest text.
        text_buckets: half-width of the text's relative positions.
        image_side: side of the grid of learnt image positions.
        bins: of a coordinate in the text, <bin_i>.
        grid: side of the grid of cells that maps are trained on; larger grids resize its positions.
    """

    width: int = 768
    hidden: int = 3072
    heads: int = 12
    encoder_layers: int = 6
    decoder_layers: int = 6
    trunk_blocks: tuple[int, int, int] = (3, 4, 23)
    trunk_width: int = 64
    trunk_pool: bool = True
    vocabulary: int = 59457
    text_positions: int = 1024
    text_buckets: int = 256
    image_side: int = 42
    grid: int = 32
    bins: int = 1000

    @property
    def stride(self) -> int:
        """Pixels per cell, along a side."""
        return 16 if self.trunk_pool else 8

    @classmethod
    def named(cls, size: str) -> OFAConfig:
        """One of the published sizes.

        Raises:
            UserError: another one.
        """
        return SIZES[known("OFA size", size, SIZES)]


SIZES = {
    "tiny": OFAConfig(256, 1024, 4, 4, 4, (3, 4, 6)),
    "medium": OFAConfig(512, 2048, 8, 4, 4, (3, 4, 23)),
    "base": OFAConfig(),
    "large": OFAConfig(1024, 4096, 16, 12, 12, (3, 8, 36)),
    "embedded": OFAConfig(128, 512, 4, 3, 2, (1, 2, 2), 16, False, 64, 64, 32, 12, 8, 16),
    "huge": OFAConfig(1280, 5120, 16, 24, 12, (3, 8, 36)),
}
