"""The towers of docs/training_free.md with random weights: tokens and embeddings against the library's own, and seconds.

``python -m benchmarks.towers [NAME ...]`` prints a row of a table for each; one tower at a time, each of its real size but for
the text tower, which is small and needs no tokenizer from the hub.
"""

from __future__ import annotations

import json
import logging
import sys
import tempfile
from pathlib import Path
from typing import Any

import common.compat  # noqa: F401  (must come before what imports torchvision)

import open_clip
import torch
import torch.nn.functional as F
import transformers
from tokenizers import Tokenizer, models
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from backbones.tower import DenseTower
from backbones.towers import load_tower
from backbones.transformers_families import FAMILIES
from benchmarks.timing import paired

PLACES = 16  # whose tokens are compared
OPEN_CLIP = ("ViT-B-16", "ViT-B-16-SigLIP2", "PE-Core-B-16", "MobileCLIP2-B", "MobileCLIP2-S0", "EVA02-B-16", "ViTamin-B",
             "convnext_base", "swin_base_patch4_window7_224", "RN50")  # fmt: skip
TEXT = {"context_length": 16, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 1}
HEADER = "| tower | pixels | stride | grid | C | rules | pooled error | dense error | ms a picture | times encode_image |"


def main(names: list[str]) -> None:
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    print(HEADER, "|---|---|---|---|---|---|---|---|---|---|", sep="\n")
    for name in names or [*OPEN_CLIP, *FAMILIES]:
        torch.manual_seed(0)
        with tempfile.TemporaryDirectory() as folder, torch.no_grad():
            print(row(name, load(name, Path(folder))), flush=True)


def load(name: str, folder: Path) -> Any:
    """A tower with random weights."""
    if name in FAMILIES:
        library = getattr(transformers, FAMILIES[name].library)
        text = {"num_hidden_layers": 1, "bos_token_id": 1, "eos_token_id": 1}
        library.config_class(text_config=text).save_pretrained(folder)
        words = Tokenizer(models.WordLevel({"<unk>": 0}, unk_token="<unk>"))
        PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>", pad_token="<unk>").save_pretrained(folder)
        kind = library.__name__.removesuffix("Model")
        getattr(transformers, f"{kind}ImageProcessor")().save_pretrained(folder)
        return load_tower(f"transformers:{folder}", None)
    config = open_clip.get_model_config(name)
    path = folder / "random.json"  # open_clip chooses tokenizers by the name
    path.write_text(json.dumps(config | {"text_cfg": TEXT}))
    return load_tower(str(path), None)


def row(name: str, tower: Any) -> str:
    """Sizes, errors and times of a tower."""
    side = tower.native_side
    images = torch.rand(1, 3, side, side)
    pooled, dense = tower.tokens(images, pooled=True)
    own_pooled, places, own = library_of(tower, images)
    ours = dense.flatten(2)[0].T[places]
    ratio = paired(name, lambda: tower.tokens(images), lambda: library_of(tower, images, pooled_only=True), runs=5)
    errors = [(a - F.normalize(b, dim=-1)).abs().max().item() for a, b in ((pooled, own_pooled), (ours, own))]
    rules = "all" if len(tower.rules) > 2 else ", ".join(tower.rules)
    sizes = [side, tower.stride, f"{dense.shape[2]} x {dense.shape[3]}", tower.channels, rules]
    times = [f"{ratio.ours:.0f}", f"{1 / ratio.median:.2f}"]
    return "| " + " | ".join(map(str, [name, *sizes, *(f"{error:.0e}" for error in errors), *times])) + " |"


def library_of(tower: DenseTower, images: Tensor, pooled_only: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """What the library makes of pictures: embedding (B, C), the places that are compared, what its head says of them."""
    if type(tower).__name__ in {family.__name__ for family in FAMILIES.values()}:
        return of_transformers(tower, images)
    clip: Any = tower.clip
    normal = (images - tower.mean) / tower.std
    pooled = clip.encode_image(normal)
    if pooled_only:
        return pooled, pooled, pooled
    visual = clip.visual
    last = visual.forward_intermediates(normal, indices=1, normalize_intermediates=True)["image_intermediates"][-1]
    trunk = getattr(visual, "trunk", None)
    last = trunk.final_conv(last) if hasattr(trunk, "final_conv") else last  # FastViT's, which open_clip leaves out there
    tokens = last.flatten(2)[0].T
    places = torch.linspace(0, len(tokens) - 1, min(PLACES, len(tokens))).long()
    return pooled, places, head_of(visual, tokens[places])


def head_of(visual: Any, places_ND: Tensor) -> Tensor:
    """The head of open_clip on pictures that are the same everywhere."""
    if hasattr(visual, "proj") and not hasattr(visual, "trunk"):
        return places_ND @ visual.proj
    if not hasattr(visual, "trunk"):  # whose pooling adds positions
        return visual.attnpool.c_proj(visual.attnpool.v_proj(places_ND))
    trunk = visual.trunk
    if hasattr(trunk, "num_prefix_tokens"):
        return visual.head(trunk.forward_head(places_ND[:, None].expand(-1, 5, -1)))
    if str(getattr(trunk, "output_fmt", "NCHW")) == "NHWC":
        return visual.head(trunk.forward_head(places_ND[:, None, None].expand(-1, 2, 2, -1)))
    return visual.head(trunk.forward_head(places_ND[:, :, None, None].expand(-1, -1, 2, 2)))


def of_transformers(tower: Any, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    pixels = (images - tower.mean) / tower.std
    out = tower.model.get_image_features(**tower.inputs(pixels))
    tokens = out.last_hidden_state[0, tower.prefix :]
    places = torch.linspace(0, len(tokens) - 1, PLACES).long()
    same = tokens[places][:, None].expand(-1, 5, -1)
    head = getattr(tower.model.vision_model, "head", None)
    return out.pooler_output, places, same[:, 0] if head is None else head(same)


if __name__ == "__main__":
    main(sys.argv[1:])
