"""SigLIP, SigLIP 2 and TIPSv2 of transformers, from a repository of the hub or a folder like one.

A place of SigLIP is read as if it were the whole picture, by the attention that pools it: alone it gets all of it. TIPSv2 has
no head; its patches and its class token lie in one space.

Shapes: B pictures, N places, D = C.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from backbones.hub import hub_folder
from backbones.transformers_tower import TransformersTower
from common.errors import UserError, in_one_line, known

PREFIX = "transformers:"  # of names


class SigLIP(TransformersTower):
    """SigLIP, and SigLIP 2 of one picture size: sigmoid-trained."""

    library = "SiglipModel"

    @property
    def scale(self) -> Tensor:  # type: ignore[override]  # an attribute of others
        scale: Tensor = self.model.logit_scale.exp().squeeze()
        return scale

    @property
    def bias(self) -> Tensor:  # type: ignore[override]
        bias: Tensor = self.model.logit_bias.squeeze()
        return bias

    @property
    def last_attention(self) -> nn.Module:
        attention: nn.Module = self.model.vision_model.encoder.layers[-1].self_attn
        return attention

    def inputs(self, pixels: Tensor) -> dict[str, Any]:
        return {"pixel_values": pixels, "interpolate_pos_encoding": True}

    def read_alone(self, places_ND: Tensor) -> Tensor:
        found: Tensor = self.model.vision_model.head(places_ND[:, None])
        return found


class NaFlex(SigLIP):
    """SigLIP 2 of any shape of picture, which it takes as patches."""

    library = "Siglip2Model"

    @property
    def native_side(self) -> int:
        return round(self.vision.num_patches**0.5) * self.stride

    def inputs(self, pixels: Tensor) -> dict[str, Any]:
        patches = pixels.unfold(2, self.stride, self.stride).unfold(3, self.stride, self.stride)  # (B, 3, h, w, p, p)
        grid = torch.tensor([patches.shape[2:4]] * len(pixels))
        values = patches.permute(0, 2, 3, 4, 5, 1).flatten(3).flatten(1, 2)
        return {"pixel_values": values, "spatial_shapes": grid, "pixel_attention_mask": None}


class TIPSv2(TransformersTower):
    """TIPSv2, whose class token of captions from the web is the picture; its released zero-shot code reads ``maskclip``."""

    library = "Tipsv2Model"
    masks_padding = True

    @property
    def prefix(self) -> int:  # type: ignore[override]
        return 1 + int(self.vision.num_register_tokens)

    @property
    def scale(self) -> Tensor:  # type: ignore[override]
        scale: Tensor = 1 / self.model.temperature
        return scale

    @property
    def last_attention(self) -> nn.Module:
        attention: nn.Module = self.model.vision_model.encoder.layer[-1].attention
        return attention


FAMILIES: dict[str, type[TransformersTower]] = {"siglip": SigLIP, "siglip2": NaFlex, "tipsv2": TIPSv2}  # by ``model_type``


def load_transformers(model: str, pretrained: str | None, revision: str | None = None) -> TransformersTower:
    """A frozen tower.

    Args:
        model: ``transformers:owner/name``, or ``transformers:folder`` of what ``save_pretrained`` of a model and its
            processor writes.
        pretrained: None for random weights, ``embedded`` for those that lie there.
        revision: commit of a repository of the hub.

    Raises:
        UserError: no such model, or of another family, weights of another model, no tokenizer, no network.
    """
    folder, kind, local = model_folder(model, model.removeprefix(PREFIX), revision)
    family = FAMILIES[known(f"model_type of '{model}'", kind, FAMILIES)]
    library: Any = getattr(transformers, family.library)
    found = library_weights(library, folder, model) if pretrained else library(library.config_class.from_pretrained(folder))
    origin = "random" if not pretrained else "file" if local else revision
    return family(f"{model}@{origin}", found, folder, bool(pretrained))


def model_folder(model: str, source: str, revision: str | None, option: str = "revision") -> tuple[str, str, bool]:
    """(the folder of a model's files, its ``model_type``, whether it was there) of a folder or a repository of the hub.

    Args:
        model: its name, for messages.
        source: folder or ``owner/name``.
        revision: commit of a repository.
        option: that gives it, for messages.
    """
    local = Path(source).is_dir()
    if not local and (source.count("/") != 1 or source.startswith((".", "/", "~"))):
        raise UserError(f"'{model}' is neither a folder that is there nor a repository OWNER/NAME of the hub.")
    folder = source if local else hub_folder(model.removesuffix(source), source, revision, option)
    try:
        return folder, str(json.loads(Path(folder, "config.json").read_text(encoding="utf-8"))["model_type"]), local
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"'{model}' has no config.json of transformers that names its model_type.") from error


def library_weights(library: Any, folder: str, model: str, **parts: Any) -> Any:
    """The model of a library's class with the weights in a folder, all of them, out of safetensors alone."""
    transformers.utils.logging.disable_progress_bar()  # of a second
    options: dict[str, Any] = {"local_files_only": True, "use_safetensors": True, "dtype": torch.float32}
    try:
        found, report = library.from_pretrained(folder, output_loading_info=True, **options, **parts)
    except Exception as error:
        raise UserError(f"cannot load the weights of '{model}': {in_one_line(error)}") from error
    if missing := sorted(report["missing_keys"]):
        raise UserError(f"the weights of '{model}' are not those of a {library.__name__}: '{missing[0]}' is missing.")
    return found
