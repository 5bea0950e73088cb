"""What every method on OFA shares: the class names as embeddings and as text, a picture as trunk features."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from backbones.ofa import OFA
from backbones.ofa.config import BOS, EOS, UNK
from backbones.ofa.loading import EMBEDDED, load_ofa, load_tokenizer
from backbones.ofa.model import Encoded
from common.errors import UserError
from methods.segmenter import Segmenter

PROMPT = "what is the segmentation map of the image? object:"


class OFASegmenter(Segmenter):
    """Base of the methods that read classes from an OFA.

    Args:
        size: ``tiny`` to ``huge`` as published, or ``embedded``.
        weights: ``embedded``, a file of weights, ``hf-hub:OFA-Sys/ofa-base``, or null for random ones.
        revision: commit of an ``hf-hub:`` repository.
        tokenizer: folder of OFA's tokenizer files; null for the embedded one's.
        redraw_map_positions: draws the positions of the decoder's maps, which only IFSeg adds to an OFA, by the run's seed
            although the weights hold them. The embedded ones do (drawn once, never trained); published ones do not, so that
            every seed draws them.
        dropout: of embeddings and branches, in training.
        drop_path: of the last layers' branches, in training.
        options: as of :class:`methods.segmenter.Segmenter`.
    """

    scores = "logit"
    no_graph = "OFA's position tables are made and kept for each size of picture, which is a symbol in a graph."
    frozen_trunk: ClassVar[bool] = True  # batch norm as a fixed affine map, as IFSeg uses it; off to pretrain a trunk

    def __init__(
        self,
        size: str = "embedded",
        weights: str | None = EMBEDDED,
        revision: str | None = None,
        tokenizer: str | None = None,
        redraw_map_positions: bool = False,
        dropout: float = 0.1,
        drop_path: float = 0.1,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        trained_with = {"dropout": dropout, "drop_path": drop_path, "frozen_trunk": self.frozen_trunk}
        self.ofa = load_ofa(size, weights, revision, redraw_map_positions, **trained_with)
        self.pretrained_parts = () if weights is None else ("ofa",)
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
        """The trunk's features, before their projection; a side that is no multiple of the stride is not filled up."""
        return self.ofa.trunk(images)

    def score_with_features(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = self.patch_features(images)
        return self.read(features).transpose(1, 2).unflatten(2, features.shape[2:]), features

    def forward(self, images: Tensor) -> Tensor:
        return self.score_with_features(images)[0]

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
