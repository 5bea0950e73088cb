"""Writes ``backbones/checkpoints/wordnet/imagenet_hypernyms.tsv`` from WordNet 3.0's ``data.noun``.

A line for each of ImageNet's 1000 classes: its id, the lemmas of its parents, those of its grandparents. ImageNet's ids are
WordNet 3.0's offsets. ``python configs/pretrain/make_hypernyms.py /usr/share/wordnet/data.noun`` (Debian: wordnet-base).
"""

from __future__ import annotations

import sys
from pathlib import Path

import common.compat  # noqa: F401  (must come before timm)

from timm.data.imagenet_info import ImageNetInfo

from backbones.imagenet import HYPERNYMS


def nouns(file: Path) -> dict[str, tuple[list[str], list[str]]]:
    """Offset of every noun synset -> its lemmas, and the offsets of its parents (instances' included)."""
    found = {}
    for line in file.read_text().splitlines():
        if line.startswith("  "):  # the licence
            continue
        fields = line.partition(" | ")[0].split()
        count = int(fields[3], 16)
        lemmas = [fields[4 + 2 * i].replace("_", " ") for i in range(count)]
        start = 4 + 2 * count
        pointers = [fields[start + 1 + 4 * i : start + 5 + 4 * i] for i in range(int(fields[start]))]
        found[fields[0]] = lemmas, [p[1] for p in pointers if p[0] in ("@", "@i") and p[2] == "n"]
    return found


def ancestors(synset: str, known: dict[str, tuple[list[str], list[str]]], depth: int) -> list[list[str]]:
    """Lemmas of the ancestors at distance 1 .. ``depth``, each ancestor at its shortest distance."""
    seen, level, found = {synset}, [synset], []
    for _ in range(depth):
        level = [p for p in dict.fromkeys(p for s in level for p in known[s][1]) if p not in seen]
        seen.update(level)
        found.append([lemma for s in level for lemma in known[s][0]])
    return found


if __name__ == "__main__":
    known = nouns(Path(sys.argv[1]))
    lines = [[name, *map(", ".join, ancestors(name[1:], known, 2))] for name in ImageNetInfo().label_names()]
    HYPERNYMS.write_text("".join("\t".join(line) + "\n" for line in lines))
