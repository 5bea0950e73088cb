"""Training on masks that are known in part: the loss over labelled pixels and active classes, and augmentation of both."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from common.batch import IGNORED
from common.distributed import mean_of_processes
from common.randomness import drawing_from
from methods.map_loss import Summed, summed_cross_entropy

Guard = Literal["none", "clamp", "drop"]


def partial_cross_entropy(
    logits: Tensor,
    labels: Tensor,
    active: Tensor,
    min_labelled_share: float = 0.0,
    guard: Guard = "none",
    guard_at: float = 0.5,
) -> Tensor:
    """Mean cross-entropy of the labelled pixels among the classes that their picture says something about.

    Several processes count the pixels of all of them: the mean of what they return, which DDP makes, is that of one process.

    Args:
        logits: (B, K, h, w) float32, upsampled bilinearly to the labels' size.
        labels: (B, H, W), 255 for pixels that do not count.
        active: (B, K) bool.
        min_labelled_share: pictures with a smaller labelled share do not count.
        guard: see :class:`methods.FreeSeg`.
        guard_at: its threshold.
    """
    few = (labels != IGNORED).float().mean((1, 2), keepdim=True) < min_labelled_share
    labels = labels.masked_fill(few, IGNORED)
    every = summed_cross_entropy(logits, labels, active)
    loss = _mean_of_all(every.loss, every.pixels)
    if guard == "none" or mean_of_processes(loss.detach().item()) >= guard_at:
        return loss
    kept = summed_cross_entropy(logits, labels, active, guard_at)
    return _mean_of_all(kept.loss, kept.pixels) if guard == "drop" else _clamped(kept, every.pixels, guard_at)


def _clamped(kept: Summed, pixels: int, at: float) -> Tensor:
    """The mean where the pixels that were not kept count with a constant."""
    return _mean_of_all(kept.loss + at * (pixels - kept.pixels), pixels)


def _mean_of_all(total: Tensor, pixels: int) -> Tensor:
    """This process's share of the mean over all processes' pixels; without any of them 0, and no gradient."""
    return total / max(mean_of_processes(float(pixels)), 1e-9)


def augmented(images: Tensor, labels: Tensor, seeds: list[tuple[int, ...]]) -> tuple[Tensor, Tensor]:
    """Pictures and masks, cropped and mirrored alike, each as its seed says."""
    change = v2.Compose([v2.RandomResizedCrop(images.shape[2:], scale=(0.5, 1.0), antialias=True), v2.RandomHorizontalFlip()])
    pictures, masks = [], []
    for image, mask, seed in zip(images, labels, seeds, strict=True):
        with drawing_from(hash(seed)):  # of integers: the same in every process
            picture, moved = change(tv_tensors.Image(image), tv_tensors.Mask(mask))
        pictures.append(picture.as_subclass(Tensor))
        masks.append(moved.as_subclass(Tensor))
    return torch.stack(pictures), torch.stack(masks)
