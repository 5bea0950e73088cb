"""Every dense tower by its name: CLIP through open_clip, and the one whose weights come with packages."""

from __future__ import annotations

from typing import Any

import open_clip

from backbones.clip import CLIP
from backbones.open_clip_model import EMBEDDED, load_open_clip
from backbones.open_clip_tower import OpenCLIPTower
from backbones.tower import DenseTower
from common.errors import UserError

PACKAGED = "packaged"


def load_tower(model: str = "tiny_clip", pretrained: str | None = EMBEDDED, revision: str | None = None) -> DenseTower:
    """A frozen tower.

    Args:
        model: ``packaged``, see :class:`backbones.conse.ConSE`, or as of :class:`backbones.open_clip_model.OpenCLIPModel`.
        pretrained: weights; those of ``packaged`` come with it, so that only ``embedded`` or None fit.
        revision: commit of an ``hf-hub:`` model.

    Raises:
        UserError: unknown model, or weights that do not belong to it.
    """
    if model != PACKAGED:
        loaded = load_open_clip(model, pretrained, revision)
        kind = CLIP if CLIP.reads(loaded.clip.visual) else OpenCLIPTower
        return kind(model, loaded=loaded)
    if pretrained not in (None, EMBEDDED) or revision is not None:
        raise UserError(
            f"the packaged tower has its own weights; '{pretrained or revision}' would be ignored. Leave pretrained and "
            "revision away, or name another model."
        )
    from backbones.conse import ConSE  # timm and transformers take seconds to import

    return ConSE()


def known_towers() -> dict[str, str]:
    """By name, what each tower is and which rules it follows, without building it."""
    packaged = {PACKAGED: "EfficientNet-Lite2 and all-MiniLM-L6-v2 out of packages, any size, for photographs; plain tokens"}
    return packaged | {name: _described(open_clip.get_model_config(name)) for name in open_clip.list_models()}


def _described(config: dict[str, Any]) -> str:
    vision = config["vision_cfg"]
    side = f"{vision.get('image_size', 224)} px"
    if vision.get("timm_model_name"):
        return f"{vision['timm_model_name']}, {side}; plain tokens"
    if isinstance(vision.get("layers"), list):
        return f"ResNet, {side}; plain tokens"
    if vision.get("attentional_pool"):
        return f"ViT with an attentional pooler, {side}; not supported"
    return f"ViT, patches of {vision['patch_size']}, any size ({side}); all attention rules"
