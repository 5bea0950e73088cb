"""What every method on OFA shares: the class names as embeddings and as text, a picture as trunk features."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from backbones.ofa import OFA
from backbones.ofa.config import BOS, EOS, UNK
from backbones.ofa.loading import load_tokenizer
from backbones.ofa.model import Encoded
from common.errors import UserError
from methods.segmenter import Segmenter

PROMPT = "what is the segmentation map of the image? object:"


class OFASegmenter(Segmenter, ABC):
    """Base of the methods that read classes from an OFA.

    Args:
        ofa: the model.
        tokenizer: folder of OFA's tokenizer files; null for the embedded one's.
        protocol: name of a preset.
        protocol_values: single rules to change.
        window_batch: windows scored at once.
    """

    scores = "logit"

    def __init__(
        self,
        ofa: OFA,
        tokenizer: str | None = None,
        protocol: str = "shapes",
        protocol_values: dict[str, Any] | None = None,
        window_batch: int = 64,
    ) -> None:
        super().__init__(protocol, protocol_values, window_batch)
        self.ofa = ofa
        self.tokenizer = load_tokenizer(tokenizer)
        self.pieces: list[list[int]] = []
        self.class_embeddings: Tensor = torch.zeros(0)
        self.source: Tensor = torch.zeros(0)

    @abstractmethod
    def read(self, features: Tensor) -> Tensor:
        """Scores (B, L, Q) of the cells of trunk features (B, C, h, w)."""

    def embed_vocabulary(self, words: list[str]) -> None:
        """The mean embedding of each name's pieces (Q, d), and the source text that lists all names (1, T).

        Raises:
            UserError: a name of which no piece is known, or more pieces than OFA has positions for.
        """
        self.pieces = [self.tokenizer.encode(word) for word in words]
        for word, ids in zip(words, self.pieces, strict=True):
            if not set(ids) - {UNK}:
                raise UserError(f"the class '{word}' has no piece that OFA knows. Give another word for it.")
        listed = [piece for ids in self.pieces for piece in ids]
        source = [BOS, *self.tokenizer.encode(PROMPT), *listed, *self.tokenizer.encode("unknown"), EOS]
        longest = self.ofa.config.text_positions
        if len(source) > longest:
            raise UserError(f"{len(words)} classes make a text of {len(source)} pieces; OFA reads {longest}. Name fewer.")
        means = [self.ofa.words[torch.tensor(ids, device=self.device)].mean(0) for ids in self.pieces]
        self.class_embeddings = torch.stack(means).detach()
        self.source = torch.tensor([source], device=self.device)

    def patch_features(self, images: Tensor) -> Tensor:
        """The trunk's features, before their projection."""
        height, width = images.shape[2:]
        stride = self.ofa.config.stride
        return self.ofa.trunk(F.pad(images, (0, -width % stride, 0, -height % stride), mode="replicate"))

    def forward(self, images: Tensor) -> Tensor:
        features = self.patch_features(images)
        scores: Tensor = self.read(features).transpose(1, 2).unflatten(2, features.shape[2:])
        return scores

    def name_cells(self, encoded: Encoded, ofa: OFA | None = None) -> Tensor:
        """The decoder's logits (B, L, Q) about every cell (IFSeg, section 3.3), of another OFA if given."""
        return (ofa or self.ofa).decode_map(encoded) @ self.class_embeddings.T

    def word_map_likeness(self, encoded: Encoded) -> Tensor:
        """Cosines (B, L, Q) of cells with the mean encodings of maps that hold one class name everywhere."""
        cells = self.class_embeddings[:, None, None].expand(-1, *encoded.grid, -1)
        return likeness(encoded.cells, self.ofa.encode_map(cells, self.source).cells.mean(1))


def likeness(cells: Tensor, known_as: Tensor) -> Tensor:
    """Cosines (B, L, Q) of (B, L, d) with (Q, d)."""
    return F.normalize(cells, dim=-1) @ F.normalize(known_as, dim=-1).T
