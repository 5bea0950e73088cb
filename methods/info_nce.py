"""The contrastive loss of images and captions, which spares captions that are true of other images."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from common.errors import UserError


def captions(batch: dict[str, Any]) -> list[str]:
    """Of a batch's pictures.

    Raises:
        UserError: they have none.
    """
    if "caption" not in batch:
        raise UserError(
            "the training pictures have no captions. Set --data.captions true, or --data.train captions for Shapes."
        )
    found: list[str] = batch["caption"]
    return found


def caption_is_true(said: Tensor, visible: Tensor) -> Tensor:
    """(B, P): whether everything that caption j says (P, W) is visible (B, W) in picture i."""
    return (~visible).float() @ said.float().T == 0


def info_nce(similarity: Tensor, true: Tensor, scale: Tensor) -> Tensor:
    """Symmetric InfoNCE of cosines (B, B) of pictures and captions, with true captions of others left out."""
    others = true & ~torch.eye(len(true), dtype=torch.bool, device=true.device)
    logits = (scale * similarity).masked_fill(others, -torch.inf)
    diagonal = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, diagonal) + F.cross_entropy(logits.T, diagonal)) / 2
