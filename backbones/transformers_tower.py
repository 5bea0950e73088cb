"""What the image-text models of transformers share (:mod:`backbones.transformers_families`).

Positions are interpolated by each model's own code, so that pictures keep their size and shape.

Shapes: B pictures, (h, w) grid, n = h*w, C joint embedding, which is as wide as the trunk.
"""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
import transformers
from torch import Tensor, nn
from transformers import AutoImageProcessor, AutoTokenizer

from backbones.tower import PLAIN, DenseTower, each_place, join_templates
from backbones.value_path import RULE, value_path
from common.errors import UserError, in_one_line
from common.kept import key_of
from common.weights import state_hash

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
        for part, value in zip(("mean", "std"), normalisation(folder), strict=True):
            self.register_buffer(part, value, persistent=False)
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
        return self.embed_image(images) if pooled else None, each_place(features, self.read_alone)

    def features(self, images: Tensor) -> Tensor:
        """The trunk's last tokens (B, C, h, w), after its final norm."""
        pixels = self._whole_patches(images)
        last = self.model.vision_model(**self.inputs(pixels)).last_hidden_state[:, self.prefix :]
        return last.transpose(1, 2).unflatten(2, tuple(side // self.stride for side in pixels.shape[2:]))

    def embed_image(self, images: Tensor, unit: bool = True) -> Tensor:
        found = self.model.get_image_features(**self.inputs(self._whole_patches(images)))
        embedding: Tensor = found.pooler_output.float()
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


def normalisation(folder: str) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (3, 1, 1) of pictures in [0, 1] that a folder's model was trained on."""
    pictures: Any = _read(AutoImageProcessor, folder, "normalisation of pictures")
    mean, std = (pictures.image_mean, pictures.image_std) if pictures.do_normalize else ([0.0] * 3, [1.0] * 3)
    return torch.tensor(mean).view(3, 1, 1), torch.tensor(std).view(3, 1, 1)


def _read(kind: Any, folder: str, what: str) -> Any:
    try:
        return kind.from_pretrained(folder, local_files_only=True)
    except Exception as error:
        raise UserError(f"cannot read the {what} in '{folder}': {in_one_line(error)}") from error
