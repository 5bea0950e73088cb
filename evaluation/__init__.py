"""How it is scored; nothing here knows a method or a dataset."""

import torchvision_compat as _compat  # noqa: F401  (must come before torchmetrics)

from evaluation.label_map import LabelMap, label_map
from evaluation.metrics import ConfusionMatrix
from evaluation.protocol import Protocol

__all__ = ["ConfusionMatrix", "LabelMap", "Protocol", "label_map"]
