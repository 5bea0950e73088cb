"""One file per paper, on one interface."""

import torchvision_compat as _compat  # noqa: F401  (must come before lightning)

from methods.segmenter import Segmenter
from zerolabel_common import subclasses_in

METHODS = subclasses_in(__name__, __path__, "Segmenter")
globals().update(METHODS)

__all__ = ["METHODS", "Segmenter", *METHODS]
