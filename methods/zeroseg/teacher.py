"""The frozen CLIP that ZeroSeg learns from: every training image as the embeddings of its views (section 3.2), made once."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbones.tower import DenseTower
from common.batch import to_unit
from common.code import code_of
from methods.per_image import Images, PerImage, Squares, StillImages, array_bytes, bytes_array
from methods.zeroseg.views import embed_views, view_count

FeatureNorm = Literal["none", "teacher", "both", "standardised"]
MEASURED = 1024  # images that the standardisation is measured on


class Teacher(nn.Module):
    """Targets (B, n, C) of training images, in the normalisation that the student learns them in.

    Args:
        clip: the model.
        grids: sides of the grids of views.
        feature_norm: see :class:`methods.ZeroSeg`.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, clip: DenseTower, grids: list[int], feature_norm: FeatureNorm) -> None:
        super().__init__()
        self.clip, self.grids, self.feature_norm = clip, grids, feature_norm
        self.register_buffer("mean", torch.zeros(self.channels))
        self.register_buffer("std", torch.ones(self.channels))
        self.images: StillImages | None = None
        self.kept: PerImage | None = None
        self.autocast: Callable[[], AbstractContextManager[None]] = torch.no_grad

    @property
    def channels(self) -> int:
        return self.clip.channels

    def prepare(
        self,
        images: StillImages,
        workers: int,
        cache: str | None,
        precision: str,
        autocast: Callable[[], AbstractContextManager[None]],
    ) -> None:
        """Embeds all views, where they are kept, and measures the features where they are standardised.

        Args:
            images: the training images.
            workers: loader processes.
            cache: folder, ``auto``, or None to embed views when they are asked for.
            precision: of the training, which ``autocast`` makes.
            autocast: context that the teacher runs in.

        Raises:
            UserError: images that change from epoch to epoch, or a disk that is too small.
        """
        self.images, self.autocast = images, autocast
        if cache is not None:
            weights, code = self.clip.image_weights_hash(), code_of(embed_views, type(self.clip))
            settings = {"teacher": weights, "grids": self.grids, "precision": precision, "code": code}
            kept = PerImage("views", cache, settings, Squares(images), "--model.cache")
            size = 2 * view_count(self.grids) * self.channels
            self.kept = kept if kept.fill(lambda some: array_bytes(self.embed(some)), workers, size) else None
        if self.feature_norm == "standardised":
            some = range(min(MEASURED, len(images)))
            unit = F.normalize(torch.cat([self.views([i]).cpu() for i in some]).flatten(0, 1), dim=-1)
            self.mean.copy_(unit.mean(0))
            self.std.copy_(unit.std(0))

    def targets(self, indices: list[int]) -> Tensor:
        """(B, n, C) of training images by their index; the first view is the whole image."""
        views = self.views(indices)
        if self.feature_norm == "none":
            return views
        views = F.normalize(views, dim=-1)
        return (views - self.mean) / self.std if self.feature_norm == "standardised" else views

    def restored(self, features: Tensor) -> Tensor:
        """Features (..., C) as the student gives them -> in the space of the text."""
        return features * self.std + self.mean if self.feature_norm == "standardised" else features

    def views(self, indices: list[int]) -> Tensor:
        """(B, n, C) float32 as CLIP gives them; a view that is kept, and not damaged, is not embedded again."""
        if self.kept is None:
            return self.embed(self._squares(indices)).float()
        contents = self.kept.read(
            indices, lambda missing: array_bytes(self.embed(self._squares([indices[i] for i in missing])))
        )
        found = bytes_array(contents, (view_count(self.grids), self.channels))
        return torch.from_numpy(found).float().to(self.mean.device)

    def embed(self, images: Images) -> Tensor:
        """Views (B, n, C) of square images, uint8 or in [0, 1]."""
        on_device = [to_unit(image.to(self.mean.device)) for image in images]
        same = len({image.shape for image in on_device}) == 1
        with self.autocast():
            return embed_views(self.clip, torch.stack(on_device) if same else on_device, self.grids)

    def _squares(self, indices: list[int]) -> list[Tensor]:
        """What some images show at the resolution of their files, so that the smallest views keep their detail."""
        if self.images is None:
            raise RuntimeError("the teacher has no images: call prepare first")
        return [self.images.square(index) for index in indices]
