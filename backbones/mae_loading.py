"""Weights of a masked autoencoder: as MAE starts them, and from the files that its authors and transformers publish."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import ViTMAEForPreTraining

from common.errors import UserError, in_one_line

STD = 0.02  # of class and mask token


@torch.no_grad()
def initialise(model: Any) -> None:
    """MAE's own start: fixed sine-cosine positions, xavier-uniform matrices, zero biases, tokens with a deviation of .02.

    transformers' ViTMAE, built from a bare config, leaves both position tables at zero (and frozen), and its matrices normal.
    """
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
    for attention in (layer.attention for layer in [*model.vit.layers, *model.decoder.decoder_layers]):
        width = attention.q_proj.weight.shape[1]
        qkv = nn.init.xavier_uniform_(torch.empty(3 * width, width))  # one matrix in MAE, whose bounds are narrower
        for projection, part in zip((attention.q_proj, attention.k_proj, attention.v_proj), qkv.chunk(3), strict=True):
            projection.weight.copy_(part)
    patches = model.vit.embeddings.patch_embeddings.projection
    nn.init.xavier_uniform_(patches.weight.view(len(patches.weight), -1))
    side = model.config.image_size // model.config.patch_size
    for table in (model.vit.embeddings.position_embeddings, model.decoder.decoder_pos_embed):
        table.copy_(sine_cosine_positions(table.shape[-1], side)[None])
    for token in (model.vit.embeddings.cls_token, model.decoder.mask_token):
        nn.init.normal_(token, std=STD)


def sine_cosine_positions(width: int, side: int) -> Tensor:
    """(1 + side * side, width): zeros for the class token, then sin and cos of the column, sin and cos of the row."""
    frequencies = 1 / 10000 ** (torch.arange(width // 4, dtype=torch.float64) / (width / 4))
    angles = torch.arange(side, dtype=torch.float64)[:, None] * frequencies
    along = torch.cat([angles.sin(), angles.cos()], 1)  # (side, width / 2)
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    table = torch.cat([along[columns.flatten()], along[rows.flatten()]], 1)
    return torch.cat([torch.zeros(1, width, dtype=torch.float64), table]).float()


def load(model: Any, weights: str, revision: str | None) -> None:
    """Copies published weights into an initialised model; a file of the encoder alone leaves the decoder at its start.

    Args:
        model: transformers' ViTMAE.
        weights: ``facebook/vit-mae-base``, a folder of such files, or a file of facebookresearch/mae (``.pth``) or of plain
            tensors (``.safetensors``).
        revision: commit of a repository.

    Raises:
        UserError: nothing that can be read, or weights of another model.
    """
    found = read(Path(weights)) if Path(weights).is_file() else _from_transformers(weights, revision, model.config)
    own = model.state_dict()
    encoder = {name for name in own if name.startswith("vit.")}
    if missing := sorted(encoder - set(found)):
        raise UserError(f"MAE weights '{weights}' lack {missing[0]} and {len(missing) - 1} more of the encoder's.")
    wanted = set(own) if set(own) <= set(found) else encoder
    if other := [name for name in sorted(wanted) if found[name].shape != own[name].shape]:
        sizes = f"{tuple(found[other[0]].shape)}, not {tuple(own[other[0]].shape)}"
        raise UserError(f"MAE weights '{weights}' are of another size: {other[0]} is {sizes}.")
    model.load_state_dict(own | {name: found[name] for name in wanted})
    if wanted == encoder:
        print(f"note: '{weights}' holds an encoder alone; the decoder starts at random.", flush=True)


def read(path: Path) -> dict[str, Tensor]:
    """Tensors by transformers' names.

    Raises:
        UserError: not a file of weights.
    """
    try:
        content: dict[str, Any] = (
            load_file(path) if path.suffix == ".safetensors" else torch.load(path, map_location="cpu", weights_only=True)
        )
        tensors = dict(content.get("model", content))
        return converted(tensors) if "pos_embed" in tensors else tensors
    except Exception as error:
        raise UserError(f"MAE weights '{path}' cannot be loaded: {in_one_line(error)}") from error


NAMES = {  # facebookresearch/mae -> transformers, in this order
    r"^cls_token$": "vit.embeddings.cls_token",
    r"^pos_embed$": "vit.embeddings.position_embeddings",
    r"^patch_embed\.proj\.": "vit.embeddings.patch_embeddings.projection.",
    r"^norm\.": "vit.layernorm.",
    r"^blocks\.": "vit.layers.",
    r"^decoder_blocks\.": "decoder.decoder_layers.",
    r"^(decoder_(?:embed|pos_embed|norm|pred)|mask_token)": r"decoder.\1",
    r"\.norm1\.": ".layernorm_before.",
    r"\.norm2\.": ".layernorm_after.",
    r"\.attn\.proj\.": ".attention.o_proj.",
}


def converted(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """facebookresearch/mae's names into transformers', its joint queries, keys and values into three."""
    found: dict[str, Tensor] = {}
    for name, value in tensors.items():
        for pattern, replacement in NAMES.items():
            name = re.sub(pattern, replacement, name)
        if ".attn.qkv." in name:
            for letter, part in zip("qkv", value.chunk(3), strict=True):
                found[name.replace(".attn.qkv.", f".attention.{letter}_proj.")] = part
        else:
            found[name] = value
    return found


def _from_transformers(weights: str, revision: str | None, config: Any) -> dict[str, Tensor]:
    try:
        loaded: Any = ViTMAEForPreTraining.from_pretrained(
            weights, revision=revision or "main", config=config, use_safetensors=True, output_loading_info=True
        )
    except Exception as error:
        raise UserError(f"MAE weights '{weights}' cannot be loaded: {in_one_line(error)}") from error
    model, info = loaded
    return {name: value for name, value in model.state_dict().items() if name not in info["missing_keys"]}
