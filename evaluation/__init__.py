"""From a picture to a count: vocabulary, protocol, windows, label map, metric. Nothing here knows a method or a dataset."""

import common.compat  # noqa: F401  (must come before torchmetrics)

from evaluation.label_map import LabelMap, label_map
from evaluation.metrics import ConfusionMatrix
from evaluation.protocol import Protocol
from evaluation.vocabulary import Vocabulary

__all__ = ["ConfusionMatrix", "LabelMap", "Protocol", "Vocabulary", "label_map"]
