"""What is read; nothing here knows a method."""

import torchvision_compat as _compat  # noqa: F401  (must come before lightning)

from datamodules.base import DataModule
from datamodules.vocabulary import Vocabulary
from zerolabel_common import subclasses_in

DATAMODULES = subclasses_in(__name__, __path__, "DataModule")
globals().update(DATAMODULES)

__all__ = ["DATAMODULES", "DataModule", "Vocabulary", *DATAMODULES]
