"""The methods, a file or a folder a paper, behind the one interface of :mod:`methods.segmenter`.

``METHODS`` finds them all. ``from methods import ZeroSeg`` imports that method alone, so that a notebook does not wait for
the libraries of the others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import common.compat  # noqa: F401  (must come before lightning)

from common.registry import load_class, subclasses_below
from methods.segmenter import Segmenter

if TYPE_CHECKING:  # for editors and type checkers; a new method need not be listed
    from methods.freeseg.freeseg import FreeSeg
    from methods.freeseg.iclip import ICLIP
    from methods.ifseg.ifseg import IFSeg
    from methods.ifseg.zero_shot import OFAZeroShot
    from methods.linear_probe import LinearProbe
    from methods.training_free import TrainingFree
    from methods.zeroseg.groupvit import GroupViT
    from methods.zeroseg.zeroseg import ZeroSeg

    METHODS: dict[str, type[Segmenter]]

NOT_METHODS = ("methods.pretraining",)

__all__ = [
    "ICLIP",
    "METHODS",
    "FreeSeg",
    "GroupViT",
    "IFSeg",
    "LinearProbe",
    "OFAZeroShot",
    "Segmenter",
    "TrainingFree",
    "ZeroSeg",
]


def __getattr__(name: str) -> Any:
    """``METHODS``, found when it is first asked for, or a method by its name."""
    if name == "METHODS":
        globals()[name] = subclasses_below(__name__, __path__, Segmenter, NOT_METHODS)
        return globals()[name]
    if name.startswith("_"):
        raise AttributeError(name)
    return load_class(__name__, __path__, name)
