"""Training on masks that are known in part: the loss over labelled pixels and active words, and augmentation of both."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from common.distributed import mean_of_processes
from methods.freeseg.mining import IGNORED

Guard = Literal["none", "clamp", "drop"]


def partial_cross_entropy(
    logits: Tensor,
    labels: Tensor,
    active: Tensor,
    min_labelled_share: float = 0.0,
    guard: Guard = "none",
    guard_at: float = 0.5,
) -> Tensor:
    """Mean cross-entropy of the labelled pixels among the words that their picture says something about.

    Several processes count the pixels of all of them: the mean of what they return, which DDP makes, is that of one process.

    Args:
        logits: (B, Q', H, W); Q' = Q, or Q + 1 with background.
        labels: (B, H, W), 255 for pixels that do not count.
        active: (B, Q) bool; the background is always active.
        min_labelled_share: pictures with a smaller labelled share do not count.
        guard: see :class:`methods.FreeSeg`.
        guard_at: its threshold.
    """
    background = torch.ones(len(active), logits.shape[1] - active.shape[1], dtype=torch.bool, device=active.device)
    logits = logits.masked_fill(~torch.cat([active, background], 1)[..., None, None], -torch.inf)
    counted = labels != IGNORED
    counted &= counted.float().mean((1, 2), keepdim=True) >= min_labelled_share
    target = labels.long().masked_fill(~counted, IGNORED)
    pixel = F.cross_entropy(logits, target, ignore_index=IGNORED, reduction="none")[counted]
    loss = _mean_of_all(pixel, logits)
    if guard != "none" and mean_of_processes(loss.detach().item()) < guard_at:
        loss = _mean_of_all(pixel.clamp(max=guard_at) if guard == "clamp" else pixel[pixel <= guard_at], logits)
    return loss


def _mean_of_all(pixel: Tensor, logits: Tensor) -> Tensor:
    """This process's share of the mean over all processes' pixels; nothing known of any picture here: no gradient."""
    count = mean_of_processes(float(len(pixel)))
    return pixel.mean() * (len(pixel) / count) if len(pixel) else logits.masked_fill(logits.isinf(), 0).sum() * 0


def augmented(images: Tensor, labels: Tensor, seeds: list[tuple[int, ...]]) -> tuple[Tensor, Tensor]:
    """Pictures and masks, cropped and mirrored alike, each as its seed says."""
    change = v2.Compose([v2.RandomResizedCrop(images.shape[2:], scale=(0.5, 1.0), antialias=True), v2.RandomHorizontalFlip()])
    pictures, masks = [], []
    with torch.random.fork_rng(devices=[]):
        for image, mask, seed in zip(images, labels, seeds, strict=True):
            torch.manual_seed(hash(seed))  # of integers: the same in every process
            picture, moved = change(tv_tensors.Image(image), tv_tensors.Mask(mask))
            pictures.append(picture.as_subclass(Tensor))
            masks.append(moved.as_subclass(Tensor))
    return torch.stack(pictures), torch.stack(masks)
