"""Pretrained models behind small typed interfaces; nothing here knows a dataset."""

import torchvision_compat as _compat  # noqa: F401  (must come before open_clip)

from backbones.clip import CLIP

__all__ = ["CLIP"]
