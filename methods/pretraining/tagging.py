"""Tagging: what a picture's caption could name is asked of its cells, and the best cells answer for the picture."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def tagging_loss(logits_BLW: Tensor, visible_BW: Tensor) -> Tensor:
    """Binary cross-entropy in nats between things that are visible and the cells' logits, pooled by their log-mean-exp.

    Args:
        logits_BLW: of L cells about W things.
        visible_BW: whether the picture shows each.
    """
    pooled_BW = torch.logsumexp(logits_BLW.float(), 1) - math.log(logits_BLW.shape[1])
    return F.binary_cross_entropy_with_logits(pooled_BW, visible_BW.float())
