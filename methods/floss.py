"""FLOSS (Benigmim et al., 2025): every class is asked in the prompt templates that suit it, which unlabelled pictures tell.

1. *Fit.* Each template alone segments the pictures. The mean entropy of its probabilities over the pixels that it gives to a
   class says how sure of that class it is; the four surest are the class's experts.
2. *Use.* A class's experts, averaged, ask for all words. A pixel is described by the expert that finds its own word there, by
   the surest if several do, and by the protocol's prompts if none does.

Shapes: T candidate templates, Q words, K classes, C joint embedding.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from backbones.attention import RuleName
from common.errors import UserError
from common.values import Count
from evaluation.rules import Prompt
from evaluation.windows import resize_image, score_windows
from methods.dense_clip import DenseCLIP
from methods.supervision import Supervision

STATE = "floss"  # a checkpoint's entry


class FLOSS(DenseCLIP):
    """See the module; before a fit it is the dense CLIP of its rule. Words that the fit did not know have no expert.

    Args:
        candidates: name of the template set that experts are chosen from.
        experts: templates of a class.
        rule: attention rule of the dense tokens; they are compared by cosine alone, also under ``surgery``.
        options: as of :class:`DenseCLIP`.
    """

    sees = Supervision.PICTURES
    scores = "probability"
    entropies: Tensor  # (T, K), summed over the pixels that a template gave to a class
    pixels: Tensor  # (T, K)

    def __init__(self, candidates: str = "openai80", experts: Count = 4, rule: RuleName = "naclip", **options: Any) -> None:
        super().__init__(rule=rule, **options)
        self.candidates, self.experts = Prompt(templates=candidates).template_list, experts
        self.ranked: list[list[str]] = []  # the words of each class that templates were ranked for
        self._start_counting(0)
        self._templates: Tensor | None = None
        self._experts: dict[int, Tensor] | None = None

    def followed_rules(self) -> frozenset[str]:
        """The temperature acts before experts are fused, at the resized image's size; every synonym has experts of its own."""
        return (super().followed_rules() | {"temperature"}) - {"synonyms", "upsampling"}

    # Fit ---------------------------------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if stage == "fit" and self.trainer.world_size > 1:
            raise UserError("FLOSS trains no weights that devices could share; fit it with --trainer.devices 1.")

    def on_fit_start(self) -> None:
        super().on_fit_start()
        asked: list[list[str]] = [[] for _ in range(self.vocabulary.num_classes)]
        for word, k in zip(self.words, self.class_of_word.tolist(), strict=True):
            asked[k].append(word)
        if self.ranked and self.ranked != asked:
            raise UserError("FLOSS has ranked its templates for other words than these; start a new fit for them.")
        if not self.ranked:
            self.ranked = asked
            self._start_counting(len(asked))

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        before = self.entropies.sum(), self.pixels.sum()
        self.count([*batch["image"]])
        entropy = (self.entropies.sum() - before[0]) / (self.pixels.sum() - before[1])
        self.log("train/entropy", entropy.float(), prog_bar=True)
        return entropy.float().requires_grad_()  # Lightning steps on a loss; nothing descends it

    def configure_optimizers(self) -> Any:
        """None: a step counts, and changes no weight."""
        return None

    @torch.no_grad()
    def count(self, images: list[Tensor]) -> None:
        """Adds what every template says of images (3, H, W) in [0, 1], each scored as the protocol's windows say."""
        rules, words = self.protocol.windows, len(self.class_of_word)
        resized = [resize_image(image, rules) for image in images]
        for image, scored in zip(images, score_windows(self._compare_all, resized, rules, self.window_batch), strict=True):
            for t in range(len(self.candidates)):
                cosines = scored.merge(slice(t * words, (t + 1) * words), (image.shape[1], image.shape[2]))
                entropy, label = entropy_of_classes(
                    (self.protocol.decision.temperature * cosines).softmax(0), self.class_of_word, len(self.ranked)
                )
                self.entropies[t].index_add_(0, label.flatten(), entropy.flatten().double())
                self.pixels[t] += torch.bincount(label.flatten(), minlength=len(self.ranked))
        self._experts = None

    def _compare_all(self, windows: Tensor) -> Tensor:
        """Cosines (B, T * Q, h, w) with the words in every template alone."""
        return torch.einsum("bchw,qc->bqhw", self.dense(windows), self.template_texts.flatten(0, 1))

    def _start_counting(self, classes: int) -> None:
        shape = (len(self.candidates), classes)
        self.register_buffer("entropies", torch.zeros(shape, dtype=torch.float64, device=self.device))
        self.register_buffer("pixels", torch.zeros(shape, dtype=torch.int64, device=self.device))

    # Use ---------------------------------------------------------------------------------------------------------

    def embed_vocabulary(self, words: list[str]) -> None:
        super().embed_vocabulary(words)
        self._templates = self._experts = None

    @property
    def template_texts(self) -> Tensor:
        """Unit embeddings (T, Q, C) of the words in every template alone."""
        if self._templates is None:
            prompts = [template.format(word) for template in self.candidates for word in self.words]
            self._templates = self.backbone.embed_text(prompts, ["{}"]).unflatten(0, (len(self.candidates), -1))
        return self._templates.to(self.device)

    def chosen(self) -> dict[str, list[int]]:
        """The places among the candidates of each ranked word's experts, the surest first."""
        mean = torch.where(self.pixels > 0, self.entropies / self.pixels, torch.inf)
        order = mean.argsort(dim=0, stable=True)[: self.experts]
        seen = self.pixels.gather(0, order) > 0
        return {
            word: order[seen[:, k], k].tolist() for k, words in enumerate(self.ranked) for word in words if seen[:, k].any()
        }

    def expert_texts(self) -> dict[int, Tensor]:
        """By the place of a word that has experts, how those ask for all words, (Q, C)."""
        if self._experts is None:
            chosen = self.chosen()
            places = {q: chosen[word] for q, word in enumerate(self.words) if word in chosen}
            self._experts = {q: F.normalize(self.template_texts[ids].mean(0), dim=-1) for q, ids in places.items()}
        return self._experts

    def forward(self, images: Tensor) -> Tensor:
        """Probabilities (B, Q, H, W): experts are fused at the size of the images."""
        dense, size = self.dense(images), (images.shape[2], images.shape[3])

        def asked(text_QC: Tensor) -> Tensor:
            cosines = torch.einsum("bchw,qc->bqhw", dense, text_QC)
            probability = (self.protocol.decision.temperature * cosines).softmax(1)
            return F.interpolate(probability, size, mode="bilinear", align_corners=False)

        return fused(asked(self.text_QC), ((q, asked(text)) for q, text in self.expert_texts().items()))

    # Checkpoints -------------------------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        experts = {word: [self.candidates[t] for t in ids] for word, ids in self.chosen().items()}
        checkpoint[STATE] = {"words": self.ranked, "candidates": self.candidates, "experts": experts}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        kept = checkpoint.get(STATE)
        if kept is None or kept["candidates"] != self.candidates:
            raise UserError("the checkpoint is of another model: FLOSS did not rank these templates in it.")
        self.ranked, self._experts = kept["words"], None
        self._start_counting(len(self.ranked))
        super().on_load_checkpoint(checkpoint)


def entropy_of_classes(probability: Tensor, class_of_word: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Entropy and label (H, W) of the classes, each of which has the best probability of its words (Q, H, W).

    As released, the classes' probabilities are not divided by their sum.
    """
    best = probability.new_zeros(classes, *probability.shape[1:])
    best = best.scatter_reduce(0, class_of_word[:, None, None].expand_as(probability), probability, "amax")
    return -(best * (best + 1e-10).log()).sum(0), best.argmax(0)


def fused(default: Tensor, experts: Iterable[tuple[int, Tensor]]) -> Tensor:
    """Probabilities (B, Q, H, W) of the expert that claims a pixel, and the default's where none does.

    Args:
        default: (B, Q, H, W).
        experts: the place q of each one's word and its probabilities (B, Q, H, W). It claims a pixel whose best word is q; of
            several the one with the largest probability of its own word, of equals the first.
    """
    found, best = default, torch.zeros_like(default[:, :1])
    for q, probability in experts:
        own = probability[:, q : q + 1]
        claimed = (probability.argmax(1, keepdim=True) == q) & (own > best)
        found, best = torch.where(claimed, probability, found), torch.where(claimed, own, best)
    return found
