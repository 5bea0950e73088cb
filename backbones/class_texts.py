"""What a class of ImageNet is asked as: the mean of its names, its definition, and what it is a kind of."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from backbones.imagenet import ImageNetClass
from backbones.minilm import FILES
from common.kept import key_of

PROMPT = "a photo of a {}."


def groups_of(one: ImageNetClass) -> list[list[str]]:
    """Groups of sentences that count alike: names, name and definition, definition, parents, grandparents.

    Definitions tell a crane that flies from one that lifts; hypernyms bring words such as "dog", of which ImageNet has only
    kinds.
    """
    names, parents, grandparents = (
        [PROMPT.format(lemma) for lemma in lemmas] for lemmas in (one.lemmas, one.parents, one.grandparents)
    )
    return [names, [f"{one.lemmas[0]}: {one.definition}"], [one.definition], parents, grandparents]


def key_of_texts(classes: list[ImageNetClass]) -> str:
    """Of their embeddings in :mod:`common.kept`: all sentences, and the encoder's files."""
    return key_of(sentences=[groups_of(one) for one in classes], encoder=FILES)


def embed_classes(classes: list[ImageNetClass], encode: Callable[[list[str]], Tensor]) -> Tensor:
    """Unit embeddings (K, C): the mean over the groups of the unit mean of each group's sentences.

    Args:
        classes: K of them.
        encode: sentences -> unit embeddings (N, C).
    """
    embedded = iter(encode([sentence for one in classes for group in groups_of(one) for sentence in group]))
    rows = []
    for one in classes:
        means = [torch.stack([next(embedded) for _ in group]).mean(0) for group in groups_of(one)]
        rows.append(F.normalize(torch.stack(means), dim=-1).sum(0))
    return F.normalize(torch.stack(rows), dim=-1)
