"""Every other image tower of open_clip (timm's, ResNets): each place is read as if it were the whole picture.

Where a picture is pooled by attention (SigLIP, PE-Core, ResNets), a place alone gets all of it, which is the value path of
MaskCLIP; where the mean or a class token is taken (MobileCLIP, EVA02, ConvNeXt, ViTamin), the place takes its seat. So every
family has the plain dense reading through its own head. Vision transformers also follow ``maskclip``, the value path inside the
last block; no other rule that changes attention inside.

Shapes: B pictures, (h, w) grid, n = h*w, D width of the trunk, C joint embedding.
"""

from __future__ import annotations

from contextlib import nullcontext
from functools import cached_property
from typing import Any

import torch.nn.functional as F
from open_clip.modified_resnet import ModifiedResNet
from open_clip.timm_model import TimmModel
from torch import Tensor

from backbones.open_clip_model import OpenCLIPModel
from backbones.tower import PLAIN, each_place
from backbones.value_path import RULE, has_value_path, value_path

VITS = ("VisionTransformer", "Eva")  # trunks of timm


class OpenCLIPTower(OpenCLIPModel):
    """A frozen image-text model of open_clip whose image tower is a timm model or a ResNet.

    Pictures of another size are brought to its own, and the grid stands for the whole picture.
    """

    unreadable = "pools its image tokens in a way that is not known here; name another model."

    @staticmethod
    def reads(visual: Any) -> bool:
        return isinstance(visual, TimmModel | ModifiedResNet)

    @property
    def rules(self) -> tuple[str, ...]:  # type: ignore[override]  # an attribute of others
        return (PLAIN,) if self._last_attention is None else (PLAIN, RULE)

    @property
    def _last_attention(self) -> Any:
        """That of a vision transformer's last block, where its parts are known; None of others."""
        trunk: Any = getattr(self.clip.visual, "trunk", None)
        if type(trunk).__name__ not in VITS:
            return None
        attention = getattr(trunk.blocks[-1], "attn", None)
        return attention if has_value_path(attention) else None

    @property
    def native_side(self) -> int:
        size = self.clip.visual.image_size
        return int(size if isinstance(size, int) else size[0])

    @property
    def stride(self) -> int:
        return self.native_side // self._grid_and_channels[0]

    @property
    def channels(self) -> int:
        return self._grid_and_channels[1]

    @cached_property
    def _grid_and_channels(self) -> tuple[int, int]:
        """Places in a row, and C, which no attribute tells for all families."""
        dense = self.dense(self.mean.new_zeros(1, 3, 1, 1))
        return dense.shape[3], dense.shape[1]

    def tokens(
        self, images: Tensor, rule: str = PLAIN, position_resize: str = "scaled_bicubic", pooled: bool = False
    ) -> tuple[Tensor | None, Tensor]:
        self.check_rule(rule)
        with value_path(self._last_attention) if rule == RULE else nullcontext():
            features = self.features(images)
        return self.embed_image(images) if pooled else None, each_place(features, self.read_alone)

    def embed_image(self, images: Tensor, unit: bool = True) -> Tensor:
        embedding: Tensor = self.clip.encode_image(self._native(images)).float()
        return F.normalize(embedding, dim=-1) if unit else embedding

    def features(self, images: Tensor) -> Tensor:
        """The trunk's last tokens (B, D, h, w), after its final norm where it has one."""
        visual: Any = self.clip.visual
        x = self._native(images)
        if isinstance(visual, ModifiedResNet):
            return visual.layer4(visual.layer3(visual.layer2(visual.layer1(visual.stem(x)))))
        last = visual.trunk.forward_features(x)
        if last.ndim == 3:
            patches = last[:, _prefix(visual.trunk) :]
            side = round(patches.shape[1] ** 0.5)
            return patches.transpose(1, 2).unflatten(2, (side, side))
        return last.permute(0, 3, 1, 2) if _channels_last(visual.trunk) else last

    def read_alone(self, places_ND: Tensor) -> Tensor:
        """Joint embeddings (N, C), not normalised, of places, each as the only one of a picture."""
        visual: Any = self.clip.visual
        if isinstance(visual, ModifiedResNet):
            pool = visual.attnpool
            return pool.c_proj(pool.v_proj(places_ND))
        trunk, tokens = visual.trunk, _prefix(visual.trunk)
        if type(trunk).__name__ in VITS:
            alone = places_ND[:, None].expand(-1, 1 + tokens, -1)  # whichever of them the head takes
        elif _channels_last(trunk):
            alone = places_ND[:, None, None]
        else:
            alone = places_ND[:, :, None, None]
        return visual.head(trunk.forward_head(alone))

    def _native(self, images: Tensor) -> Tensor:
        size = (self.native_side, self.native_side)
        if tuple(images.shape[2:]) != size:
            images = F.interpolate(images, size, mode="bicubic", align_corners=False, antialias=True).clamp(0, 1)
        return (images - self.mean) / self.std


def _prefix(trunk: Any) -> int:
    """Tokens in front of the patches: class token, registers."""
    return int(getattr(trunk, "num_prefix_tokens", 0))


def _channels_last(trunk: Any) -> bool:
    return str(getattr(trunk, "output_fmt", "NCHW")) == "NHWC"
