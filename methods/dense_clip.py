"""What the methods on CLIP share: a frozen dense tower, an attention rule, and words as text embeddings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from backbones.attention import RuleName
from backbones.clip import CLIP, EMBEDDED
from backbones.tower import DenseTower
from backbones.towers import load_tower
from common.errors import UserError
from evaluation.rules import PROMPT_RULES, Prompt
from methods.segmenter import Segmenter


class DenseCLIP(Segmenter):
    """Base of the methods that compare a tower's tokens, or what learns from them, with words.

    Args:
        rule: attention rule of the dense tokens, see :mod:`backbones.attention`.
        clip: the tower, one of ``zerolabel list towers``; see :func:`backbones.towers.load_tower`.
        pretrained: its weights.
        revision: commit of a model of the hub.
        options: as of :class:`Segmenter`.
    """

    backbone: DenseTower

    def __init__(
        self,
        rule: RuleName = "sclip",
        clip: str = "tiny_clip",
        pretrained: str | None = EMBEDDED,
        revision: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.rule_name = rule
        self.backbone = load_tower(clip, pretrained, revision)
        self.backbone.check_rule(rule)
        self.tower_saw = self.backbone.saw
        self.pretrained_parts = ("backbone",) if self.backbone.pretrained else ()
        self.protocol = self._followed(None)  # again: which rules are followed depends on the tower
        self.text_QC: Tensor = torch.zeros(0, 0)

    def check_clip(self) -> None:
        """For a method that reads or trains parts of a CLIP itself. Raises UserError for any other tower."""
        if not isinstance(self.backbone, CLIP):
            raise UserError(
                f"{type(self).__name__} reads parts of a CLIP's ViT, which tower '{self.backbone.name}' is not. Name another."
            )

    def followed_rules(self) -> frozenset[str]:
        prompts = PROMPT_RULES if self.closed is None else frozenset()
        positions = {"position_resize"} if not hasattr(self, "backbone") or self.backbone.has_positions else set()
        return super().followed_rules() | prompts | positions

    def training_rules(self) -> frozenset[str]:
        """A closed head asks no words, but what labels its training does."""
        return PROMPT_RULES if self.closed is not None else frozenset()

    def embed_vocabulary(self, words: list[str]) -> None:
        self.text_QC, self.class_of_word = embed_words(
            words, self.class_of_word, self.protocol.prompt, self.backbone.embed_text
        )

    def dense(self, images: Tensor, rule: RuleName | None = None) -> Tensor:
        """Unit tokens (B, C, h, w) under the method's rule, or another."""
        return self.backbone.dense(images, rule or self.rule_name, self.protocol.windows.position_resize)


def embed_words(
    words: list[str], class_of_word: Tensor, prompt: Prompt, embed_text: Callable[[list[str], list[str], str], Tensor]
) -> tuple[Tensor, Tensor]:
    """Unit text embeddings (Q, C) and the class of each, as the protocol's prompt says.

    Args:
        words: what is asked, synonyms included.
        class_of_word: (Q,) their classes.
        prompt: templates, how they are joined, and whether a class is asked by the mean of its synonyms.
        embed_text: words, templates and ensemble -> unit embeddings, such as :meth:`backbones.tower.DenseTower.embed_text`.
    """
    text = embed_text(words, prompt.template_list, prompt.ensemble).to(class_of_word.device)
    if prompt.synonyms == "max":
        return text, class_of_word
    classes, inverse = class_of_word.unique(return_inverse=True)
    summed = torch.zeros(len(classes), text.shape[1], device=text.device).index_add_(0, inverse, text)
    return F.normalize(summed, dim=-1), classes
