"""DenseTower: what a method reads of a pretrained image-text model, whichever it is.

Shapes: B pictures, (h, w) grid of tokens, C joint embedding, K words.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.code import code_of
from common.errors import UserError
from common.kept import Kept, key_of

PLAIN = "clip"  # the rule that changes nothing: the tower's own last tokens


class DenseTower(nn.Module, ABC):
    """A frozen image-text model that also describes places of a picture.

    Pictures come as RGB in [0, 1]; a tower normalises for itself.

    Attributes:
        name: its name in results.
        rules: attention rules that it follows, see :mod:`backbones.attention`.
        has_positions: whether it has position embeddings, which the protocol's ``position_resize`` is about.
        pretrained: whether its weights were loaded, so that the same arguments bring them back.
        saw: labels that its training saw beyond captions; empty for none.
        scale: what cosines are multiplied with before a softmax over words (the exponential of CLIP's ``logit_scale``).
        bias: what is added to scaled cosines before a sigmoid, where it was trained with one for each word; else None.
    """

    name: str
    rules: Collection[str] = (PLAIN,)
    has_positions: bool = False
    pretrained: bool = True
    saw: str = ""
    scale: Tensor
    bias: Tensor | None = None

    @property
    @abstractmethod
    def stride(self) -> int:
        """Pixels per token."""

    @property
    @abstractmethod
    def channels(self) -> int:
        """C."""

    @property
    @abstractmethod
    def native_side(self) -> int:
        """Pixels of the square pictures that it was trained on."""

    @abstractmethod
    def tokens(
        self, images: Tensor, rule: str = PLAIN, position_resize: str = "scaled_bicubic", pooled: bool = False
    ) -> tuple[Tensor | None, Tensor]:
        """The image embedding (B, C) if ``pooled``, and dense tokens (B, C, h, w), both unit-norm.

        Args:
            images: (B, 3, H, W) of any height and width.
            rule: how the last blocks attend, one of :attr:`rules`.
            position_resize: see :class:`evaluation.rules.Windows`.
            pooled: whether the image embedding is wanted.
        """

    @abstractmethod
    def embed_image(self, images: Tensor, unit: bool = True) -> Tensor:
        """Image embeddings (B, C), unit-norm or as they are, of images (B, 3, H, W)."""

    @abstractmethod
    def image_weights_hash(self) -> str:
        """12 hex digits over all that its picture embeddings depend on."""

    @abstractmethod
    def text_identity(self, words: list[str]) -> dict[str, str]:
        """What an embedding of words depends on besides the words: digests of weights and tokens, versions of libraries."""

    @abstractmethod
    def encode_text(self, words: list[str], templates: list[str], ensemble: str) -> Tensor:
        """What :meth:`embed_text` gives, made anew."""

    def dense(self, images: Tensor, rule: str = PLAIN, position_resize: str = "scaled_bicubic") -> Tensor:
        """Dense tokens (B, C, h, w), unit-norm, of images (B, 3, H, W) in [0, 1] of any height and width."""
        return self.tokens(images, rule, position_resize)[1]

    def compare(self, images: Tensor, text_QC: Tensor, class_of_word: Tensor, **reading: Any) -> tuple[Tensor, Tensor]:
        """How much each place shows each word, (B, Q, h, w), and the dense tokens (B, C, h, w) that say so.

        Cosines; a tower that knows better than those replaces them here.

        Args:
            images: (B, 3, H, W).
            text_QC: unit embeddings of the words.
            class_of_word: (Q,) words of one class are synonyms.
            reading: ``rule`` and ``position_resize``.
        """
        dense = self.dense(images, **reading)
        return torch.einsum("bchw,qc->bqhw", dense, text_QC), dense

    @torch.no_grad()
    def embed_text(self, words: list[str], templates: list[str], ensemble: str = "unit") -> Tensor:
        """Unit embeddings (K, C) of words, averaged over prompt templates, from the disk cache where possible.

        Args:
            words: K class words.
            templates: prompts with ``{}`` for the word.
            ensemble: "unit" normalises each prompt before the mean, "raw" only after.
        """
        key = key_of(asked=[words, templates, ensemble], code=code_of(type(self)), **self.text_identity(words))
        kept = Kept("text").tensors(key, lambda: {"text": self.encode_text(words, templates, ensemble)})
        return kept["text"].to(self.scale.device)

    def check_rule(self, rule: str) -> None:
        """Raises UserError for a rule that this tower cannot follow, naming those it can."""
        if rule not in self.rules:
            raise UserError(
                f"tower '{self.name}' cannot follow the attention rule '{rule}': it has no such attention. "
                f"It follows: {', '.join(sorted(self.rules))}."
            )


def each_place(features: Tensor, read_alone: Callable[[Tensor], Tensor]) -> Tensor:
    """Unit tokens (B, C, h, w) of features (B, D, h, w), each place read as if it were the whole picture.

    Args:
        features: of the trunk.
        read_alone: places (N, D) -> joint embeddings (N, C).
    """
    places_ND = features.permute(0, 2, 3, 1).flatten(0, 2)
    dense = read_alone(places_ND).float().unflatten(0, (len(features), *features.shape[2:])).permute(0, 3, 1, 2)
    return F.normalize(dense, dim=1)


def join_templates(features: Tensor, ensemble: str) -> Tensor:
    """Unit embeddings (K, C) of words from those of their prompts (K, T, C).

    Args:
        features: as the text tower gives them.
        ensemble: "unit" normalises each prompt before the mean, "raw" only after.
    """
    features = F.normalize(features, dim=-1) if ensemble == "unit" else features
    return F.normalize(features.mean(1), dim=-1)
