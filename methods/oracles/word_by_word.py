"""What networks share that answer one phrase at a time: a picture is encoded once, then every word is a pass of its own."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import open_clip
import torch
import torch.nn.functional as F
from torch import Tensor

from backbones.hub import hub_folder
from common.errors import UserError, in_one_line
from common.randomness import drawing_from
from common.values import Count
from methods.segmenter import Segmenter
from methods.supervision import Supervision


class WordByWord(Segmenter):
    """Base of such networks, pretrained with masks by others; nothing is trained here.

    A picture, or a window of the protocol, is squeezed into the square that the network was trained with; probabilities of
    different words do not compete (each is a sigmoid), so that a background is where the best of them is below one half
    (``--model.protocol oracle``).

    Args:
        weights: ``hf-hub:OWNER/NAME``, a folder of such files, or null for a tiny random network.
        revision: commit of an ``hf-hub:`` repository.
        word_batch: words that are asked at once; bounds the memory, does not change the result.
        options: as of :class:`methods.segmenter.Segmenter`.
    """

    sees = Supervision.MASKS
    scores = "probability"

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    text_length: int

    def __init__(self, weights: str | None = None, revision: str | None = None, word_batch: Count = 16, **options: Any) -> None:
        super().__init__(**options)
        if weights is None:
            with drawing_from(0):  # nothing of the run's numbers
                self.model: Any = self.tiny()
        else:
            self.model = self._published(weights, revision)
        self.model.requires_grad_(False).eval()
        self.pretrained_parts = () if weights is None else ("model",)
        self.word_batch = word_batch
        self.tokenizer = open_clip.get_tokenizer("ViT-B-32")  # CLIP's BPE, which these networks use
        self.text: tuple[Tensor, ...] = ()

    @staticmethod
    @abstractmethod
    def tiny() -> Any:
        """A small network of this kind with random weights."""

    @staticmethod
    @abstractmethod
    def load(folder: str) -> Any:
        """The network in a folder of its published files."""

    @property
    @abstractmethod
    def side(self) -> int:
        """Of the square, in pixels."""

    @abstractmethod
    def embed(self, ids: Tensor, real: Tensor) -> tuple[Tensor, ...]:
        """Pieces (Q, T) of texts, ``real`` where they are no padding -> tensors with a row a word."""

    @abstractmethod
    def encode(self, pixels: Tensor) -> Any:
        """One normalised square (1, 3, side, side) -> what :meth:`probabilities` reads."""

    @abstractmethod
    def probabilities(self, encoded: Any, text: tuple[Tensor, ...]) -> Tensor:
        """Probabilities (q, h, w) that a place is what the words say."""

    @torch.no_grad()
    def embed_vocabulary(self, words: list[str]) -> None:
        ids = self.tokenizer(words, context_length=self.text_length).to(self.device)
        end = ids.argmax(1, keepdim=True)  # the end has the largest number
        real = torch.arange(ids.shape[1], device=self.device) <= end
        self.text = self.embed(ids, real)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        mean, std = (torch.tensor(values, device=images.device).view(3, 1, 1) for values in (self.mean, self.std))
        squares = F.interpolate(images, (self.side, self.side), mode="bilinear", antialias=True, align_corners=False)
        return torch.stack([self._ask(self.encode(square[None])) for square in (squares - mean) / std])

    def _ask(self, encoded: Any) -> Tensor:
        """(Q, h, w) of one picture."""
        chunks = [part.split(self.word_batch) for part in self.text]
        return torch.cat([self.probabilities(encoded, words) for words in zip(*chunks, strict=True)])

    def _published(self, weights: str, revision: str | None) -> Any:
        folder = weights
        if weights.startswith("hf-hub:"):
            folder = hub_folder("hf-hub:", weights.removeprefix("hf-hub:"), revision)
        try:
            return self.load(folder)
        except Exception as error:
            raise UserError(f"{type(self).__name__} '{weights}' cannot be loaded: {in_one_line(error)}") from error
