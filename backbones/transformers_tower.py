"""Image-text models of transformers: SigLIP, SigLIP 2 and TIPSv2, from a repository of the hub or a folder like one.

A place of SigLIP is read as if it were the whole picture, by the attention that pools it: alone it gets all of it. TIPSv2 has
no head; its patches and its class token lie in one space. Positions are interpolated by each model's own code, so that
pictures keep their size and shape.

Shapes: B pictures, (h, w) grid, n = h*w, C joint embedding, which is as wide as the trunk.
"""

from __future__ import annotations

import hashlib
import json
from abc import abstractmethod
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import transformers
from torch import Tensor, nn
from transformers import AutoImageProcessor, AutoTokenizer

from backbones.hub import first_line, hub_folder
from backbones.tower import PLAIN, DenseTower, join_templates
from backbones.value_path import RULE, value_path
from common.errors import UserError, known
from common.kept import key_of
from common.weights import state_hash

PREFIX = "transformers:"  # of names
AT_ONCE = 256  # prompts


class TransformersTower(DenseTower):
    """A frozen image-text model of transformers.

    Args:
        name: in results.
        model: as transformers made it.
        folder: its tokenizer and the normalisation of its pictures.
        pretrained: whether its weights were loaded.
    """

    rules = (PLAIN, RULE)
    library: str  # the model's class there
    prefix = 0  # tokens in front of the patches
    masks_padding = False  # SigLIP learnt that a prompt is 64 tokens long, and pools the last

    mean: Tensor
    std: Tensor

    def __init__(self, name: str, model: Any, folder: str, pretrained: bool) -> None:
        super().__init__()
        self.name, self.pretrained, self.model = name, pretrained, model.float()
        self.tokenizer: Any = _read(AutoTokenizer, folder, "tokenizer")
        pictures: Any = _read(AutoImageProcessor, folder, "normalisation of pictures")
        for part, plain in (("mean", [0.0] * 3), ("std", [1.0] * 3)):
            value = getattr(pictures, f"image_{part}") if pictures.do_normalize else plain
            self.register_buffer(part, torch.tensor(value).view(3, 1, 1), persistent=False)
        self.requires_grad_(False).eval()

    @property
    def vision(self) -> Any:
        return self.model.config.vision_config

    @property
    def stride(self) -> int:
        return int(self.vision.patch_size)

    @property
    def channels(self) -> int:
        return int(self.vision.hidden_size)

    @property
    def native_side(self) -> int:
        return int(self.vision.image_size)

    @property
    @abstractmethod
    def last_attention(self) -> nn.Module:
        """Of the last block."""

    def inputs(self, pixels: Tensor) -> dict[str, Any]:
        """What the image tower is called with, of normalised pictures whose sides are whole patches."""
        return {"pixel_values": pixels}

    def read_alone(self, places_ND: Tensor) -> Tensor:
        """Joint embeddings (N, C), not normalised, of places, each as the only one of a picture."""
        return places_ND

    def tokens(
        self, images: Tensor, rule: str = PLAIN, position_resize: str = "scaled_bicubic", pooled: bool = False
    ) -> tuple[Tensor | None, Tensor]:
        self.check_rule(rule)
        with value_path(self.last_attention) if rule == RULE else nullcontext():
            features = self.features(images)
        places_ND = features.permute(0, 2, 3, 1).flatten(0, 2)
        dense = self.read_alone(places_ND).unflatten(0, (len(features), *features.shape[2:])).permute(0, 3, 1, 2)
        return self.embed_image(images) if pooled else None, F.normalize(dense, dim=1)

    def features(self, images: Tensor) -> Tensor:
        """The trunk's last tokens (B, C, h, w), after its final norm."""
        pixels = self._whole_patches(images)
        last = self.model.vision_model(**self.inputs(pixels)).last_hidden_state[:, self.prefix :]
        return last.transpose(1, 2).unflatten(2, tuple(side // self.stride for side in pixels.shape[2:]))

    def embed_image(self, images: Tensor, unit: bool = True) -> Tensor:
        embedding: Tensor = self.model.get_image_features(**self.inputs(self._whole_patches(images))).pooler_output
        return F.normalize(embedding, dim=-1) if unit else embedding

    def _whole_patches(self, images: Tensor) -> Tensor:
        """Normalised pictures, enlarged to the next whole patch as in TIPSv2's released code."""
        size = [-(-side // self.stride) * self.stride for side in images.shape[2:]]
        if size != [*images.shape[2:]]:
            images = F.interpolate(images, size, mode="bicubic", align_corners=False).clamp(0, 1)
        return (images - self.mean) / self.std

    def image_weights_hash(self) -> str:
        vision = self.model.vision_model
        content = [state_hash(vision.state_dict()), repr(vision), self.mean.tolist(), self.std.tolist()]
        return key_of(content=content, transformers=transformers.__version__)[:12]

    # Texts -------------------------------------------------------------------------------------------------------

    def tokenize(self, prompts: list[str]) -> Any:
        longest = self.model.config.text_config.max_position_embeddings
        options = {"padding": "max_length", "truncation": True, "max_length": longest, "return_tensors": "pt"}
        return self.tokenizer(prompts, return_attention_mask=self.masks_padding, **options)

    def text_identity(self, words: list[str]) -> dict[str, str]:
        tokens = hashlib.sha256(self.tokenize(words)["input_ids"].numpy().tobytes()).hexdigest()
        text = self.model.text_model
        weights = key_of(weights=state_hash(text.state_dict()), modules=repr(text))
        return {"weights": weights, "tokens": tokens, "transformers": transformers.__version__}

    def encode_text(self, words: list[str], templates: list[str], ensemble: str) -> Tensor:
        prompts = [template.format(word) for word in words for template in templates]
        parts = [self.tokenize(prompts[start : start + AT_ONCE]) for start in range(0, len(prompts), AT_ONCE)]
        features = [self.model.get_text_features(**part.to(self.mean.device)).pooler_output for part in parts]
        return join_templates(torch.cat(features).view(len(words), len(templates), -1), ensemble)


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
    source = model.removeprefix(PREFIX)
    local = Path(source).is_dir()
    if not local and (source.count("/") != 1 or source.startswith((".", "/", "~"))):
        raise UserError(f"'{model}' is neither a folder that is there nor a repository OWNER/NAME of the hub.")
    folder = source if local else hub_folder(PREFIX, source, revision)
    try:
        kind = str(json.loads(Path(folder, "config.json").read_text(encoding="utf-8"))["model_type"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"'{model}' has no config.json of transformers that names its model_type.") from error
    family = FAMILIES[known(f"model_type of '{model}'", kind, FAMILIES)]
    library: Any = getattr(transformers, family.library)
    found = _weights(library, folder, model) if pretrained else library(library.config_class.from_pretrained(folder))
    origin = "random" if not pretrained else "file" if local else revision
    return family(f"{model}@{origin}", found, folder, bool(pretrained))


def _weights(library: Any, folder: str, model: str) -> Any:
    """The model with the weights in a folder, all of them."""
    options = {"local_files_only": True, "use_safetensors": True, "dtype": torch.float32}
    try:
        found, report = library.from_pretrained(folder, output_loading_info=True, **options)
    except Exception as error:
        raise UserError(f"cannot load the weights of '{model}': {first_line(error)}") from error
    if missing := sorted(report["missing_keys"]):
        raise UserError(f"the weights of '{model}' are not those of a {library.__name__}: '{missing[0]}' is missing.")
    return found


def _read(kind: Any, folder: str, what: str) -> Any:
    try:
        return kind.from_pretrained(folder, local_files_only=True)
    except Exception as error:
        raise UserError(f"cannot read the {what} in '{folder}': {first_line(error)}") from error
