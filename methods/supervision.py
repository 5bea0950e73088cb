"""What a method's own training was allowed to see, and the check that a batch holds no more than that."""

from __future__ import annotations

from enum import Enum
from typing import Any


class Supervision(Enum):
    """What a method's own training was allowed to see (its pretrained backbone is named beside it), or its regions'."""

    NOTHING = "nothing"
    NAMES = "class names"
    PICTURES = "unlabelled pictures"
    CAPTIONS = "pictures with captions"
    BOXES = "pictures with captions and boxes"
    SELECTION = "class names; labels choose the step (oracle)"
    NAMELESS = "masks without names (oracle)"
    MASKS = "masks (oracle)"


def holds_mask(batch: Any) -> bool:
    """Whether a batch, or one of several inside it, has a field of masks."""
    if isinstance(batch, dict):
        return "mask" in batch or any(holds_mask(value) for value in batch.values())
    return isinstance(batch, list | tuple) and any(holds_mask(part) for part in batch)
