"""Published OFA weights: fairseq's names, Hugging Face's names, and what of a checkpoint is not weights."""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import hf_hub_download
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from backbones.ofa.model import OFA
from backbones.ofa.tokenizer import OFATokenizer
from common.errors import UserError, in_one_line

EMBEDDED = "embedded"
FOLDER = Path(__file__).parents[1] / "checkpoints"
ADDED_BY_IFSEG = re.compile(r"decoder\.(embed_seg_positions|seg_pos_ln|seg_rel_pos_table_list)\.")
NOT_WEIGHTS = re.compile(
    r".*(\.version|_rp_bucket|image_position_idx|num_batches_tracked|seg_embed_tokens\.weight|embed_tokens_bag\.weight"
    r"|_id_offset|region_prefix)"
    r"|decoder\.(embed_tokens|output_projection|seg_projection)\.weight"
)
FAIRSEQ_OF_HUGGING_FACE = (
    (r"^(encoder\..*)self_attn_mid_layer_norm", r"\1attn_ln"),
    (r"^(decoder\..*)self_attn_mid_layer_norm", r"\1self_attn_ln"),
    (r"cross_attn_mid_layer_norm", "cross_attn_ln"),
    (r"cross_attn_layer_norm", "encoder_attn_layer_norm"),
    (r"cross_attn\.", "encoder_attn."),
    (r"ffn_layer_norm", "ffn_layernorm"),
)


def load_weights(model: OFA, weights: Mapping[str, Tensor], source: str) -> list[str]:
    """Copies weights under either naming into a model; returns the names that only IFSeg adds and that keep their start.

    Raises:
        UserError: another vocabulary (the Chinese checkpoints'), missing weights or another size.
    """
    state = {fairseq_name(name): value for name, value in weights.items()}
    state = {name: value for name, value in state.items() if not NOT_WEIGHTS.fullmatch(name)}
    own = model.state_dict()
    own = {name: value for name, value in own.items() if not NOT_WEIGHTS.fullmatch(name)}
    words = state.get("encoder.embed_tokens.weight")
    if words is None:
        raise UserError(f"'{source}' holds no OFA: 'encoder.embed_tokens.weight' is missing.")
    if len(words) < model.config.vocabulary:
        raise UserError(
            f"'{source}' has {len(words)} words, the English OFA has {model.config.vocabulary}. Is it a Chinese checkpoint?"
        )
    state["encoder.embed_tokens.weight"] = words[: model.config.vocabulary]  # IFSeg's own checkpoints append unused rows
    missing = [name for name in own if name not in state]
    if lost := [name for name in missing if not ADDED_BY_IFSEG.match(name)]:
        raise UserError(f"'{source}' lacks '{lost[0]}' and {len(lost) - 1} other weights of this size of OFA.")
    for name, value in own.items():
        if name in state and state[name].shape != value.shape:
            raise UserError(
                f"'{source}': '{name}' is {tuple(state[name].shape)}, this size of OFA has {tuple(value.shape)}. "
                "Set --model.size to the checkpoint's."
            )
    model.load_state_dict({name: value for name, value in state.items() if name in own}, strict=False)
    return missing


def fairseq_name(name: str) -> str:
    """A weight's name in fairseq's spelling, which ours is."""
    for pattern, replacement in FAIRSEQ_OF_HUGGING_FACE:
        name = re.sub(pattern, replacement, name)
    return name


def find_weights(path_or_hub_id: str, revision: str | None = None) -> Path:
    """The file of ``"embedded"``, of a path, or of ``"hf-hub:OFA-Sys/ofa-base"``, downloaded at a pinned revision.

    Raises:
        UserError: a repository without a revision, or one that cannot be had.
    """
    if path_or_hub_id == EMBEDDED:
        return FOLDER / "embedded_ofa.safetensors"
    if not path_or_hub_id.startswith("hf-hub:"):
        return Path(path_or_hub_id)
    repository = path_or_hub_id.removeprefix("hf-hub:")
    if revision is None:
        raise UserError(f"'{path_or_hub_id}' needs a revision (a commit of the repository), so that it stays the same weights.")
    try:
        return Path(hf_hub_download(repository, "pytorch_model.bin", revision=revision))
    except Exception as error:
        raise UserError(f"'{path_or_hub_id}' cannot be downloaded: {in_one_line(error)}") from error


def load_ofa(
    size: str, weights: str | None, revision: str | None = None, redraw_map_positions: bool = False, **options: Any
) -> OFA:
    """An OFA with the weights of a file, ``"embedded"``, or ``"hf-hub:OFA-Sys/ofa-base"`` at a ``revision``; random if None.

    What only IFSeg adds is drawn where the file lacks it, as published ones do, and anew where it is to be redrawn.

    Raises:
        UserError: no such file or repository, or no checkpoint of this size.
    """
    model = OFA(size, **options)
    if weights is not None:
        path = find_weights(weights, revision)
        found = read_weights(path)
        if redraw_map_positions:
            found = {name: value for name, value in found.items() if not ADDED_BY_IFSEG.match(name)}
        load_weights(model, found, str(path))
    return model


def load_tokenizer(folder: str | None) -> OFATokenizer:
    """The tokenizer of a folder, or the embedded one."""
    return OFATokenizer.from_folder(FOLDER / "embedded_ofa" if folder is None else folder)


def read_weights(path: Path) -> dict[str, Tensor]:
    """Tensors by name, from safetensors or from a torch file that holds nothing but tensors and plain values.

    Raises:
        UserError: missing, broken, or a file that would run code when it is read.
    """
    if not path.is_file():
        raise UserError(f"weights '{path}' do not exist.")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"'{path}' holds pickled objects beside its weights, which are never unpacked here. Where you trust it, convert it "
            "once to safetensors (README, IFSeg)."
        ) from error
    except Exception as error:
        raise UserError(f"weights '{path}' cannot be read: {in_one_line(error)}") from error
    return content.get("model", content)


@dataclass(frozen=True)
class Tags:
    """The linear head (W, C), (W,) on the trunk's cells that names the W things of the captions it was pretrained on."""

    names: list[str]
    weight: Tensor
    bias: Tensor


def load_tags(weights: str | None) -> Tags:
    """The tagging head that :class:`methods.OFAPretraining` leaves beside an OFA's weights.

    Raises:
        UserError: weights without one, as published OFAs are.
    """
    path = find_weights(weights) if weights and not weights.startswith("hf-hub:") else Path()
    if path.suffix == ".safetensors" and path.is_file():
        with safe_open(path, "pt") as file:
            if listed := (file.metadata() or {}).get("tags"):
                return Tags(json.loads(listed), file.get_tensor("tag_head.weight"), file.get_tensor("tag_head.bias"))
    raise UserError(f"weights '{weights}' hold no tagging head; only an OFA pretrained here has one. Choose another reading.")
