"""Writes the packaged tower's class texts beside the checkpoints: python configs/pretrain/make_imagenet_texts.py.

They are made of what comes anyway (names, definitions, hypernyms, all-MiniLM-L6-v2), and spare the first prediction half a
minute.
"""

from __future__ import annotations

import common.compat  # noqa: F401  (must come before timm)

from backbones.class_texts import embed_classes, key_of_texts
from backbones.conse import SHIPPED_TEXTS
from backbones.imagenet import imagenet_classes
from backbones.minilm import MiniLM
from common.kept import Kept

if __name__ == "__main__":
    store, classes = Kept("class texts", SHIPPED_TEXTS, required=True), imagenet_classes()
    for old in list(store.keys()):
        store.remove(old)
    store.write(key_of_texts(classes), {"text": embed_classes(classes, MiniLM())})
