"""Lets torchvision from PyPI be imported beside a CPU build of torch. Import this module before anything else.

PyPI's torchvision is a CUDA build. Beside ``torch+cpu`` its C++ operators cannot load, and registering their shape
functions fails with "operator torchvision::nms does not exist", which takes lightning, open_clip, timm and torchmetrics
down with it. Declaring the two operators by schema is enough; none of the project's code calls them.
"""

import importlib.machinery
import importlib.util
from pathlib import Path

import torch

_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_library: torch.library.Library | None = None  # the declarations live as long as this object


def _operators_load() -> bool:
    """Whether torchvision's compiled operators can be loaded into this torch."""
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return True
    candidates = [Path(spec.origin).parent / f"_C{suffix}" for suffix in importlib.machinery.EXTENSION_SUFFIXES]
    try:
        torch.ops.load_library(str(next(path for path in candidates if path.exists())))
    except (OSError, StopIteration):
        return False
    return True


def declare_missing_operators() -> bool:
    """Declares ``nms`` and ``qnms`` where they cannot be loaded; returns whether that was needed."""
    global _library
    if _library is None and torch.version.cuda is None and not _operators_load():
        _library = torch.library.Library("torchvision", "FRAGMENT")
        for operator in ("nms", "qnms"):
            if not hasattr(torch.ops.torchvision, operator):  # somebody else's remedy may have come first
                _library.define(operator + _SCHEMA)
    return _library is not None


declare_missing_operators()
