"""OFA without any further training: readings of the pretrained model, the rows that IFSeg is measured against."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbones.ofa import OFA
from backbones.ofa.config import BOS, EOS, PAD, UNK
from backbones.ofa.loading import EMBEDDED, load_ofa, load_tokenizer
from backbones.ofa.model import Encoded
from methods.segmenter import Sees, Segmenter
from zerolabel_common import UserError, known

PROMPT = "what is the segmentation map of the image? object:"
REGION = "what does the region describe? region:"
READINGS = ("nearest_word", "word_maps", "surrogate", "questions")


class OFAZeroShot(Segmenter):
    """A class per cell, read from a pretrained OFA.

    Args:
        reading: ``nearest_word`` compares a cell's encoding with the embeddings of the class names (the word-embedding
            nearest neighbour), ``word_maps`` with the encodings of maps that hold one class name everywhere, ``surrogate``
            asks the decoder as IFSeg does, before IFSeg has trained it, and ``questions`` asks it what each cell's region
            shows (slow: a text per cell and name).
        size: ``tiny`` to ``huge`` as published, or ``embedded``.
        weights: ``embedded``, a file of weights, ``hf-hub:OFA-Sys/ofa-base``, or null for random ones.
        revision: commit of an ``hf-hub:`` repository.
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
        revision: str | None = None,
        tokenizer: str | None = None,
        protocol: str = "shapes",
        protocol_values: dict[str, Any] | None = None,
        window_batch: int = 64,
    ) -> None:
        super().__init__(protocol, protocol_values, window_batch)
        self.save_hyperparameters(logger=False)
        self.reading = known("reading of OFA", reading, READINGS)
        self.ofa: OFA = load_ofa(size, weights, revision)
        self.tokenizer = load_tokenizer(tokenizer)
        self.class_embeddings: Tensor = torch.zeros(0)
        self.source: Tensor = torch.zeros(0)
        self.pieces: list[list[int]] = []

    def embed_vocabulary(self, words: list[str]) -> None:
        """The mean embedding of each name's pieces (Q, d), and the source text that lists all names (1, T).

        Raises:
            UserError: a name of which no piece is known, or more pieces than OFA has positions for.
        """
        self.pieces = pieces = [self.tokenizer.encode(word) for word in words]
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
        features = self.cell_features(images)
        scores: Tensor = self.read(features).transpose(1, 2).unflatten(2, features.shape[2:])
        return scores

    def read(self, features: Tensor) -> Tensor:
        """Scores (B, L, Q) of the cells of trunk features (B, C, h, w)."""
        if self.reading == "questions":
            return self._answers(features)
        encoded = self.ofa.encode_features(features, self.source)
        if self.reading == "surrogate":
            return self.name_cells(encoded)
        known_as = self.class_embeddings
        if self.reading == "word_maps":
            cells = self.class_embeddings[:, None, None].expand(-1, *encoded.grid, -1)
            known_as = self.ofa.encode_map(cells, self.source).cells.mean(1)
        return F.normalize(encoded.cells, dim=-1) @ F.normalize(known_as, dim=-1).T

    def name_cells(self, encoded: Encoded) -> Tensor:
        """The decoder's logits (B, L, Q) about every cell (IFSeg, section 3.3)."""
        return self.ofa.decode_map(encoded) @ self.class_embeddings.T

    def _answers(self, features: Tensor) -> Tensor:
        """(B, L, Q) mean log-probability of each name's pieces as the answer to OFA's region question about a cell."""
        height, width = features.shape[2:]
        bins = self.ofa.config.bins
        asked = []
        for y, x in ((y, x) for y in range(height) for x in range(width)):
            corners = (x * bins // width, y * bins // height, (x + 1) * bins // width, (y + 1) * bins // height)
            region = " ".join(f"<bin_{min(corner, bins - 1)}>" for corner in corners)
            asked.append([BOS, *self.tokenizer.encode(f"{REGION} {region}"), EOS])
        question = torch.tensor(asked, device=features.device)
        rows = [torch.tensor([BOS, *ids, EOS]) for ids in self.pieces]
        names = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=PAD).to(features.device)
        return torch.stack([self._answers_about(one[None], question, names) for one in features])

    def _answers_about(self, features: Tensor, question: Tensor, names: Tensor) -> Tensor:
        encoded = self.ofa.encode_features(features.expand(len(question), -1, -1, -1), question)
        said = []
        for name in names:  # one name after the other bounds the memory
            name = name[name != PAD]
            decoded = self.ofa.decode_text(encoded, name[:-1].expand(len(question), -1))
            logs = (decoded @ self.ofa.words.T).float().log_softmax(-1)
            said.append(logs.gather(2, name[1:].expand(len(question), -1)[..., None]).mean((1, 2)))
        return torch.stack(said, 1)
