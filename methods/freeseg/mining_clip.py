"""A CLIP that mines masks by the rules, and measures what these compare over a collection of pictures."""

from __future__ import annotations

from abc import ABC
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from typing import Any

from torch import Tensor

from common.batch import to_unit
from common.errors import known
from common.kept import key_of
from methods.freeseg.mining import MiningRules, PartialMask, image_level, mine, partial_label, refined_maps, scaled
from methods.freeseg.reach import Reach, over_collection, spread
from methods.freeseg.second_look import Evidence, SecondLook, Verdicts, regions_of
from methods.freeseg.similarity import Similarity
from methods.freeseg.similarity_map import SimilarityCLIP


class MiningCLIP(SimilarityCLIP, ABC):
    """Base of what mines masks.

    Args:
        mining: rules of the partial label and the partial pixel, see :class:`methods.freeseg.mining.MiningRules`.
        options: as of :class:`methods.freeseg.similarity_map.SimilarityCLIP`.
    """

    def __init__(self, mining: dict[str, Any] | None = None, **options: Any) -> None:
        super().__init__(**options)
        for key in mining or {}:
            known("mining rule", key, asdict(MiningRules()))
        self.mining = MiningRules(**(mining or {}))
        self.reach: Reach | None = None
        self.verdicts: Verdicts | None = None

    @property
    def mines_background(self) -> bool:
        return self.mining.background is not None and self.vocabulary.background is not None

    def mine(self, images: Tensor) -> list[PartialMask]:
        """Masks of images (B, 3, H, W), uint8 or in [0, 1], by the classes that are asked."""
        classes, mined = self.class_of_text.unique(), []
        background = self.vocabulary.background if self.mines_background else None
        for some in self._as_looked_at(images):
            seen, maps, shown = self.maps_of(some)
            mined += mine(maps, shown, some, self.mining, classes, background, self._confirmed(some, seen.patches))
        return mined

    def maps_of(self, images: Tensor) -> tuple[Similarity, Tensor, Tensor]:
        """Of images in [0, 1]: what the tower says of them, maps (B, K, h, w) as the rules compare them, and what they show."""
        seen = self.similarity(images)
        maps = scaled(seen.map, self.mining, self.reach)
        return seen, maps, image_level(seen.crops, maps, self.backbone.scale, self.mining)

    def measure_reach(self, images: Callable[[], Iterable[Tensor]], key: str | None = None) -> None:
        """Measures the maps of a collection, for rules that compare over one.

        Args:
            images: gives them, (B, 3, H, W), each batch read as it is asked for: none where what is measured was kept.
            key: it is kept under, None for nothing.

        Raises:
            UserError: there are none.
        """

        def over(look: Callable[[Tensor], Any], of: type[Reach] | type[Verdicts], what: str, key: str | None) -> Any:
            batches = (some for batch in images() for some in self._as_looked_at(batch))
            return of(**over_collection(batches, look, lambda seen: asdict(of.over(seen)), what, key))

        self.reach = over(lambda some: [spread(self.similarity(some).map)], Reach, "reach of the maps", key)
        if self.mining.seen_in == "regions":  # those of maps whose reach is known
            key = None if key is None else key_of(reach=key, rules=asdict(self.mining))
            self.verdicts = over(self._evidence, Verdicts, "regions alone", key)

    def _as_looked_at(self, images: Tensor) -> Iterator[Tensor]:
        """Images (B, 3, H, W), uint8 or in [0, 1], as the tower sees them, in batches that it sees at once."""
        return (to_unit(some.to(self.device)) for some in images.split(self.similarity.at_once(*images.shape[2:])))

    @property
    def _second_look(self) -> SecondLook:
        own = (self.backbone, self.text_QC, self.class_of_text)
        return SecondLook(*own, self.mining.foreground, self.window_batch)

    def _confirmed(self, images: Tensor, patches: Tensor) -> Callable[[int, Tensor, Tensor], Tensor] | None:
        verdicts, look = self.verdicts, self._second_look
        if verdicts is None:
            return None
        return lambda i, maps, found: look.confirmed(verdicts, images[i], patches[i], maps, found)

    def _evidence(self, images: Tensor) -> list[Evidence]:
        """Of the regions of the classes in question in images (B, 3, H, W) in [0, 1], on the CPU."""
        seen, maps, shown = self.maps_of(images)
        look, evidence = self._second_look, []
        for i, (found, few) in enumerate(refined_maps(maps, partial_label(shown, self.mining)[0], images, self.mining)):
            regions = regions_of(few, self.mining.foreground)
            evidence.append(look.evidence(images[i], seen.patches[i], found, regions).to("cpu"))
        return evidence
