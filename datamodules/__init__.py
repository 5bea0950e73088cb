"""What is read: benchmarks in their original files, pictures without labels, word maps. Nothing here knows a method."""

import common.compat  # noqa: F401  (must come before lightning)

from common.registry import subclasses_below
from datamodules.base import DataModule

DATAMODULES = subclasses_below(__name__, __path__, DataModule)
globals().update(DATAMODULES)

__all__ = ["DATAMODULES", "DataModule", *DATAMODULES]
