"""OFA without any further training: readings of the pretrained model, the rows that IFSeg is measured against."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from backbones.ofa import OFA
from backbones.ofa.config import BOS, EOS, UNK
from backbones.ofa.loading import EMBEDDED, load_ofa, load_tokenizer
from backbones.ofa.model import Encoded
from methods.segmenter import Sees, Segmenter
from zerolabel_common import UserError, known

PROMPT = "what is the segmentation map of the image? object:"
READINGS = ("nearest_word", "word_maps", "surrogate")


class OFAZeroShot(Segmenter):
    """A class per cell, read from a pretrained OFA.

    Args:
        reading: ``nearest_word`` compares a cell's encoding with the embeddings of the class names (the word-embedding
            nearest neighbour), ``word_maps`` with the encodings of maps that hold one class name everywhere, and
            ``surrogate`` asks the decoder as IFSeg does, before IFSeg has trained it.
        size: ``tiny`` to ``huge`` as published, or ``embedded``.
        weights: ``embedded``, a file of weights, or null for random ones.
        tokenizer: folder of OFA's tokenizer files; null for the embedded one's.
        protocol: name of a preset.
        protocol_values: single rules to change.
        window_batch: windows scored at once.
    """

    sees = Sees.NOTHING
    scores = "logit"

    def __init__(
        self,
        reading: str = "nearest_word",
        size: str = "embedded",
        weights: str | None = EMBEDDED,
        tokenizer: str | None = None,
        protocol: str = "shapes",
        protocol_values: dict[str, Any] | None = None,
        window_batch: int = 64,
    ) -> None:
        super().__init__(protocol, protocol_values, window_batch)
        self.save_hyperparameters(logger=False)
        self.reading = known("reading of OFA", reading, READINGS)
        self.ofa: OFA = load_ofa(size, weights)
        self.tokenizer = load_tokenizer(tokenizer)
        self.class_embeddings: Tensor = torch.zeros(0)
        self.source: Tensor = torch.zeros(0)

    def embed_vocabulary(self, words: list[str]) -> None:
        """The mean embedding of each name's pieces (Q, d), and the source text that lists all names (1, T).

        Raises:
            UserError: a name of which no piece is known, or more pieces than OFA has positions for.
        """
        pieces = [self.tokenizer.encode(word) for word in words]
        for word, ids in zip(words, pieces, strict=True):
            if not set(ids) - {UNK}:
                raise UserError(f"the class '{word}' has no piece that OFA knows. Give another word for it.")
        listed = [piece for ids in pieces for piece in ids]
        source = [BOS, *self.tokenizer.encode(PROMPT), *listed, *self.tokenizer.encode("unknown"), EOS]
        longest = self.ofa.config.text_positions
        if len(source) > longest:
            raise UserError(f"{len(words)} classes make a text of {len(source)} pieces; OFA reads {longest}. Name fewer.")
        means = [self.ofa.words[torch.tensor(ids, device=self.device)].mean(0) for ids in pieces]
        self.class_embeddings = torch.stack(means).detach()
        self.source = torch.tensor([source], device=self.device)

    def cell_features(self, images: Tensor) -> Tensor:
        """The trunk's features, before their projection."""
        height, width = images.shape[2:]
        stride = self.ofa.config.stride
        return self.ofa.trunk(F.pad(images, (0, -width % stride, 0, -height % stride), mode="replicate"))

    def forward(self, images: Tensor) -> Tensor:
        encoded = self.ofa.encode_features(self.cell_features(images), self.source)
        scores: Tensor = self.read(encoded).transpose(1, 2).unflatten(2, encoded.grid)
        return scores

    def read(self, encoded: Encoded) -> Tensor:
        """Scores (B, L, Q) of the cells."""
        if self.reading == "surrogate":
            return self.ofa.decode_map(encoded) @ self.class_embeddings.T
        known_as = self.class_embeddings
        if self.reading == "word_maps":
            cells = self.class_embeddings[:, None, None].expand(-1, *encoded.grid, -1)
            known_as = self.ofa.encode_map(cells, self.source).cells.mean(1)
        return F.normalize(encoded.cells, dim=-1) @ F.normalize(known_as, dim=-1).T
