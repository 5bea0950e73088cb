"""What is known in words about ImageNet's 1000 classes: names, WordNet definitions, and what they are a kind of."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from timm.data.imagenet_info import ImageNetInfo

HYPERNYMS = Path(__file__).parent / "checkpoints" / "wordnet" / "imagenet_hypernyms.tsv"


@dataclass(frozen=True)
class ImageNetClass:
    """One synset.

    Attributes:
        lemmas: its names, the most common first.
        definition: WordNet's.
        parents: names of the synsets directly above it (hypernyms).
        grandparents: of those above these.
    """

    lemmas: tuple[str, ...]
    definition: str
    parents: tuple[str, ...]
    grandparents: tuple[str, ...]


def imagenet_classes() -> list[ImageNetClass]:
    """The 1000 classes in the order of every ImageNet-1k head."""
    info = ImageNetInfo()
    above = dict(_hypernyms())
    classes = []
    for synset in info.label_names():
        lemmas = info.label_name_to_description(synset)
        definition = info.label_name_to_description(synset, detailed=True).removeprefix(f"{lemmas}: ")
        classes.append(ImageNetClass(_listed(lemmas), definition, *above[synset]))
    return classes


def _hypernyms() -> list[tuple[str, tuple[tuple[str, ...], tuple[str, ...]]]]:
    """(synset, (its parents' lemmas, its grandparents'))."""
    lines = [line.split("\t") for line in HYPERNYMS.read_text(encoding="utf-8").splitlines()]
    return [(synset, (_listed(parents), _listed(grandparents))) for synset, parents, grandparents in lines]


def _listed(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())
