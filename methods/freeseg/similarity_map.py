"""The similarity map that FreeSeg mines, as a method of its own: what a network that learnt from it is compared with."""

from __future__ import annotations

from abc import ABC
from dataclasses import fields, replace
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from backbones.attention import RuleName
from backbones.clip import CLIP
from backbones.tower import DenseTower
from common.errors import UserError, known
from evaluation.inference import Inference
from evaluation.rules import WINDOW_RULES, Windows
from methods.dense_clip import DenseCLIP
from methods.freeseg.similarity import SimilarityMaker
from methods.supervision import Supervision

WHOLE: dict[str, Any] = {"crop": None, "stride": None, "position_resize": "bicubic"}
AS_IT_IS: dict[str, Any] = {"short_side": 0, "max_long_side": 2**16, "crop": None, "stride": None, "upsampling": "direct"}


class SimilarityCLIP(DenseCLIP, ABC):
    """Base of what shows a similarity map or learns from one.

    Args:
        views: how the tower looks at a picture, each like a protocol's windows: ``{short_side: 448, crop: 224, stride: 112}``,
            or without ``crop`` as a whole, which the first must be. The map is the mean over the views. Null: whole at the
            tower's own size n, and by a CLIP in windows of n at twice the size too, half of them overlapping.
        iclip: projection that :class:`methods.ICLIP` wrote; null for CLIP's own.
        rule: attention rule of the map: ``maskclip``, ``surgery``, ``clip`` ...
        options: as of :class:`methods.dense_clip.DenseCLIP`.
    """

    def __init__(
        self,
        views: list[dict[str, Any]] | None = None,
        iclip: str | None = None,
        rule: RuleName = "maskclip",
        **options: Any,
    ) -> None:
        super().__init__(rule=rule, **options)
        self.views = views_of(views, self.backbone)
        if iclip is not None:
            self.check_clip()
        learnt = None if iclip is None else read_projection(iclip, rule)
        self.register_buffer("projection", None if learnt is None else learnt[0])
        self.map_sees = Supervision.NOTHING if learnt is None else learnt[1]

    projection: Tensor | None

    def embed_vocabulary(self, words: list[str]) -> None:
        """Text embeddings of the words."""
        super().embed_vocabulary(words)
        self.class_of_text = self.class_of_word

    def followed_rules(self) -> frozenset[str]:
        """The map has views of its own."""
        return super().followed_rules() - {"position_resize"}

    @property
    def similarity(self) -> SimilarityMaker:
        """What it makes of images, see :class:`methods.freeseg.similarity.Similarity`."""
        own = (self.rule_name, self.views, self.projection, self.window_batch)
        return SimilarityMaker(self.backbone, self.text_QC, self.class_of_text, *own)


class SimilarityMap(SimilarityCLIP):
    """Answers with the map that :class:`methods.FreeSeg` mines under the same ``rule``, ``views`` and ``iclip``.

    Args:
        options: as of :class:`SimilarityCLIP`.
    """

    no_graph = "it cuts views of its own, of several sizes, from whole pictures; export the FreeSeg that was trained on it."

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.sees = self.map_sees

    def followed_rules(self) -> frozenset[str]:
        """Its views are cut from the whole image."""
        return super().followed_rules() - WINDOW_RULES

    def embed_vocabulary(self, words: list[str]) -> None:
        """Text embeddings of the words; a class has one map."""
        super().embed_vocabulary(words)
        self.class_of_word = self.class_of_text.unique()

    @property
    def inference(self) -> Inference:
        """Hands whole images on, in their own size."""
        found = super().inference
        return replace(found, protocol=found.protocol.changed(**AS_IT_IS))

    def forward(self, images: Tensor) -> Tensor:
        return self.similarity(images).map


def views_of(views: list[dict[str, Any]] | None, tower: DenseTower) -> tuple[Windows, ...]:
    """The views that the user gave, or those of ``views: null``.

    Raises:
        UserError: an unknown or impossible value, windows that do not lie on the tower's patches, or no whole picture in front.
    """
    views = views or _usual_views(tower)
    for key in (key for view in views for key in view):
        known("setting of a view", key, [field.name for field in fields(Windows)])
    found = tuple(Windows(**WHOLE | view) for view in views)
    if found[0].crop is not None:
        raise UserError(f"the first of the views is {views[0]}; it must be the whole picture, which says what is there.")
    patch = tower.stride
    for windows in found:
        if windows.crop is not None and not isinstance(tower, CLIP):
            raise UserError(
                f"views: crop {windows.crop} needs a ViT's patches, which tower '{tower.name}' has not; leave it away."
            )
        if windows.crop is not None and (windows.crop % patch or (windows.stride or 0) % patch):
            raise UserError(f"views: crop {windows.crop} and stride {windows.stride} must be multiples of the patch, {patch}.")
    return found


def _usual_views(tower: DenseTower) -> list[dict[str, Any]]:
    native = tower.native_side
    whole: dict[str, Any] = {"short_side": native}
    if not isinstance(tower, CLIP):
        return [whole]
    return [whole, {"short_side": 2 * native, "crop": native, "stride": native // 2 // tower.stride * tower.stride}]


def read_projection(file: str, rule: str) -> tuple[Tensor, Supervision]:
    """The projection that ICLIP wrote, and what it has seen.

    Raises:
        UserError: no such file, or one for the tokens of another attention rule.
    """
    try:
        with safe_open(file, "pt") as content:
            projection, said = content.get_tensor("projection"), content.metadata() or {}
            learnt_on, sees = said["rule"], Supervision[said["sees"]]
    except (OSError, KeyError, ValueError, SafetensorError) as error:
        raise UserError(f"'{file}' is no projection that ICLIP wrote: {error}") from error
    if learnt_on != rule:
        raise UserError(f"'{file}' was trained on the tokens of rule {learnt_on}, not {rule}. Give --model.rule {learnt_on}.")
    return projection, sees
