"""OFA (ICML 2022), the encoder-decoder that IFSeg trains: plain PyTorch, with the names of the published checkpoints."""

from backbones.ofa.config import OFAConfig
from backbones.ofa.model import OFA

__all__ = ["OFA", "OFAConfig"]
