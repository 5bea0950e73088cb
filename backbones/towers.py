"""Every dense tower by its name: open_clip's, transformers', and the one whose weights come with packages."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import open_clip
from timm.models import is_model_in_modules

from backbones.clip import CLIP
from backbones.hub import in_cache
from backbones.open_clip_model import EMBEDDED, load_open_clip
from backbones.open_clip_tower import OpenCLIPTower
from backbones.packages import LITE2, MINILM
from backbones.tower import DenseTower
from common.errors import UserError

PACKAGED, TRANSFORMERS = "packaged", "transformers:"
VIT_MODULES = ("vision_transformer", "vision_transformer_hybrid", "eva", "vitamin")  # of timm
HUB = (  # one of each family
    ("google/siglip2-base-patch16-224", "SigLIP and SigLIP 2 (model_type siglip)"),
    ("google/siglip2-base-patch16-naflex", "SigLIP 2 NaFlex (siglip2)"),
    ("google/tipsv2-b14", "TIPSv2 (tipsv2)"),
)


def load_tower(model: str = "tiny_clip", pretrained: str | None = EMBEDDED, revision: str | None = None) -> DenseTower:
    """A frozen tower.

    Args:
        model: ``packaged``, see :class:`backbones.conse.ConSE`, ``transformers:...``, see
            :func:`backbones.transformers_families.load_transformers`, or as of
            :class:`backbones.open_clip_model.OpenCLIPModel`.
        pretrained: weights; those of ``packaged`` come with it, so that only ``embedded`` or None fit; those of
            ``transformers:`` too, but None is random weights.
        revision: commit of an ``hf-hub:`` or ``transformers:`` model.

    Raises:
        UserError: unknown model, or weights that do not belong to it.
    """
    if model.startswith(TRANSFORMERS):
        if pretrained not in (None, EMBEDDED):
            raise UserError(f"'{model}' brings its weights; '{pretrained}' would be ignored. Leave pretrained away.")
        from backbones.transformers_families import load_transformers  # takes seconds to import

        return load_transformers(model, pretrained, revision)
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
    packaged = {PACKAGED: "EfficientNet-Lite2 and all-MiniLM-L6-v2 out of packages, any size, for photographs; clip"}
    families = {
        f"{TRANSFORMERS}{name}": f"{family}; a repository or a folder, any size; clip, maskclip" for name, family in HUB
    }
    own = {
        "local-dir:FOLDER": "of open_clip_config.json and weights",
        "FILE.json": "a model config of open_clip, with pretrained FILE",
    }
    return packaged | families | own | {name: _described(open_clip.get_model_config(name)) for name in open_clip.list_models()}


def _described(config: dict[str, Any]) -> str:
    vision = config["vision_cfg"]
    side = f"{vision.get('image_size', 224)} px"
    if trunk := vision.get("timm_model_name"):
        follows = "clip, maskclip" if is_model_in_modules(trunk, VIT_MODULES) else "clip"
        return f"{trunk}, {side}; {follows}"
    if isinstance(vision.get("layers"), list):
        return f"ResNet, {side}; clip"
    if vision.get("attentional_pool"):
        return f"ViT with an attentional pooler, {side}; not supported"
    return f"ViT, patches of {vision['patch_size']}, any size ({side}); all attention rules"


def is_here(model: str | None, pretrained: str | None = EMBEDDED, repository: str | None = None) -> bool:
    """Whether weights need no download.

    Args:
        model: as of :func:`load_tower`; None for none.
        pretrained: as of it.
        repository: ``owner/name`` of the hub, with ``hf-hub:`` before it or not, of a model that is no tower; None for none.
    """
    if repository is not None and "/" in repository:
        return Path(repository).is_dir() or in_cache(repository.removeprefix("hf-hub:"))
    if model == PACKAGED:
        return all(find_spec(package.replace("-", "_")) for package in (LITE2, MINILM))
    if model is None or pretrained in (None, EMBEDDED) or Path(str(pretrained)).is_file():
        return model is None or not model.startswith((TRANSFORMERS, "hf-hub:"))
    released = open_clip.get_pretrained_cfg(model, pretrained) or {}
    return in_cache(released.get("hf_hub", "").rstrip("/"))
