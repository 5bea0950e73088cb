"""OFA without any further training: readings of the pretrained model, the rows that IFSeg is measured against."""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbones.ofa.config import BOS, EOS, PAD
from backbones.ofa.loading import EMBEDDED, load_tags
from common.errors import UserError
from methods.ifseg.ofa_segmenter import OFASegmenter, likeness
from methods.supervision import Supervision

REGION = "what does the region describe? region:"
Reading = Literal["nearest_word", "word_maps", "surrogate", "questions", "tags"]


class OFAZeroShot(OFASegmenter):
    """A class per cell, read from a pretrained OFA.

    Args:
        reading: ``nearest_word`` compares a cell's encoding with the embeddings of the class names (the word-embedding
            nearest neighbour), ``word_maps`` with the encodings of maps that hold one class name everywhere, ``surrogate``
            asks the decoder as IFSeg does, before IFSeg has trained it, ``questions`` asks it what each cell's region
            shows (slow: a text per cell and name), and ``tags`` the head that taught the embedded OFA's trunk to see.
        options: as of :class:`methods.ifseg.ofa_segmenter.OFASegmenter`.
    """

    sees = Supervision.NOTHING

    def __init__(
        self,
        reading: Reading = "nearest_word",
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.reading = reading
        self.tags = load_tags(options.get("weights", EMBEDDED)) if reading == "tags" else None

    def embed_vocabulary(self, words: list[str]) -> None:
        super().embed_vocabulary(words)
        if self.tags and (unknown := [word for word in words if word not in self.tags.names]):
            raise UserError(f"the tagging head does not know '{unknown[0]}'; it knows {', '.join(self.tags.names)}.")

    def read(self, features: Tensor) -> Tensor:
        if self.tags:
            rows = [self.tags.names.index(word) for word in self.words]
            scores = F.linear(features.flatten(2).mT, self.tags.weight.to(features), self.tags.bias.to(features))
            return scores[..., rows]
        if self.reading == "questions":
            return self._answers(features)
        encoded = self.ofa.encode_features(features, self.source)
        if self.reading == "surrogate":
            return self.name_cells(encoded)
        if self.reading == "word_maps":
            return self.word_map_likeness(encoded)
        return likeness(encoded.cells, self.class_embeddings)

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
