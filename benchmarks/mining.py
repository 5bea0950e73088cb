"""Mining masks of 171 classes with a ViT-B/16 against a plain path: one picture at a time, every product written out.

The rival mines the same masks in the way that CLIP Surgery's published code makes its map: each picture by itself, the
products of all patches, classes and channels kept at once, every class's map upsampled to the picture.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any

import common.compat  # noqa: F401  (must come before what imports torchvision)

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.timing import Ratio, paired, peak_memory, print_added_memory
from common.batch import IGNORED
from evaluation import Vocabulary
from methods import METHODS
from methods.freeseg.mining import partial_label, partial_pixel
from methods.freeseg.similarity import itsm

PICTURES, SIDE = 4, 224


def make() -> tuple[Callable[[], Tensor], Callable[[], Tensor]]:
    """Masks (B, H, W) by us and by the plain path."""
    torch.manual_seed(0)
    model: Any = METHODS["FreeSeg"](clip="ViT-B-16", pretrained=None, masks=None, views=[{"short_side": SIDE}])
    vocabulary = Vocabulary.load("coco_stuff171")
    # the text tower would take minutes
    model.embed_words = lambda words: F.normalize(torch.randn(len(words), 512), dim=-1)
    model.use_vocabulary(vocabulary)
    images = torch.rand(PICTURES, 3, SIDE, SIDE)

    @torch.no_grad()
    def ours() -> Tensor:
        return torch.stack([mined.labels for mined in model.mine(images)])

    @torch.no_grad()
    def plain() -> Tensor:
        return torch.cat([one(image[None]) for image in images])

    def one(image: Tensor) -> Tensor:
        total = 0
        for mirrored in (False, True):
            seen = image.flip(3) if mirrored else image
            pooled, dense = model.backbone.tokens(seen, model.rule_name, "bicubic", pooled=True)
            products = dense.flatten(2).mT[:, :, None] * model.text_QC  # (1, n, Q, C)
            scores = products.sum(-1).mT.unflatten(2, dense.shape[2:])
            total = total + (scores.flip(3) if mirrored else scores)
            if not mirrored:
                cosines = pooled @ model.text_QC.T
        maps = F.interpolate(itsm(total / 2), image.shape[2:], mode="bilinear", align_corners=False)[0]  # type: ignore[operator]
        shown = (cosines * model.backbone.scale).softmax(1) * cosines.shape[1]
        present = partial_label(shown, model.mining)[0][0].nonzero()[:, 0]
        chosen = partial_pixel(maps[present], model.mining)
        return torch.cat([present, torch.tensor([IGNORED])])[chosen].to(torch.uint8)[None]

    return ours, plain


def run() -> Iterator[Ratio]:
    ours, plain = make()
    assert (ours() != plain()).float().mean() < 1e-3
    yield paired(f"mining {PICTURES} pictures of {SIDE} px, 171 classes, ViT-B/16, against a plain path", ours, plain, runs=3)
    yield peak_memory("the same: added memory", "benchmarks.mining")


if __name__ == "__main__":
    print_added_memory(dict(zip(("ours", "rival"), make(), strict=True))[sys.argv[1]])
