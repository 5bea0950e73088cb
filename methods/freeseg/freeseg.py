"""FreeSeg (arXiv 2209.13558): masks mined from the similarity map of a CLIP, and a network trained on them.

1. Map: the ITSM (:mod:`methods.freeseg.similarity`) of CLIP, of CLIP Surgery, of a trained ICLIP or of another tower, or,
   which is our own, the same scaled over many pictures (:mod:`methods.freeseg.reach`).
2. Mining (:mod:`methods.freeseg.mining`): image-level scores say which classes are present (partial label), the map which
   pixels are sure (partial pixel); or, our own, a second look at each region (:mod:`methods.freeseg.second_look`).
3. Training: cross-entropy over the labelled pixels and the classes that the picture says something about.

The paper's body is public (OpenReview, arXiv) but was not available where this was written, and no code is: the parts bear the
abstract's names; how they work is INFERRED throughout, with the alternatives in config, and no absolute number of the paper is
quoted. Classes compete and not words, in mining and in the loss: one that is asked by several words has its best word's value.
Shapes: B pictures, Q words, K classes, C embedding.
"""

from __future__ import annotations

from dataclasses import asdict
from itertools import islice
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbones.remembered import TokenMemory, remembered
from backbones.segformer import SegFormer
from common.batch import IGNORED, Batch
from common.code import code_of
from common.distributed import gathered
from common.errors import UserError
from common.kept import key_of
from common.randomness import run_seed
from common.records import joined
from common.synonyms import best_of_class
from common.values import Amount, Natural
from common.weights import state_hash
from evaluation.label_map import LabelMap
from methods.freeseg.mined_masks import MaskStatistics, decode, encode, statistics_of
from methods.freeseg.mining import PartialMask, mine
from methods.freeseg.mining_clip import MiningCLIP
from methods.freeseg.partial_loss import Guard, augmented, partial_cross_entropy
from methods.freeseg.preview import MinedPicture, mining_preview
from methods.freeseg.reach import MEASURED
from methods.freeseg.second_look import SecondLook
from methods.freeseg.similarity import SimilarityMaker
from methods.map_loss import position_among
from methods.optim import adamw, warmup_cosine, with_step_schedule
from methods.per_image import PerImage, StillImages, image_batches, of_one_size
from methods.supervision import Supervision


class FreeSeg(MiningCLIP):
    """See the module.

    Args:
        masks: folder of the mined masks; ``auto`` for the cache, null to mine at every step.
        network: ``segformer_embedded`` or ``segformer_b0``.
        network_weights: of its encoder, ``nvidia/mit-b0`` or a folder.
        network_revision: commit of its repository.
        closed_outputs: 0 for an open head, which compares pixel embeddings with the words, so that others can be asked at test
            time; the number of classes (the background among them where it is asked or mined) for a closed one.
        guard: against wrong masks, once the mean loss is below ``guard_at``: ``clamp`` pixel losses at it ("pretended
            under-fitting"), so that the worst pixels give no gradient, ``drop`` them, or ``none``.
        guard_at: a loss in nats.
        predicts: what ``predict`` gives: the label map of the ``network``, or the mask ``mined`` of each picture, for other
            trainers, in which 255 is unsure.
        augment: crop half to all of the area at random and mirror half of the pictures, each with its mask.
        learning_rate: of AdamW, then half a cosine to 0.
        weight_decay: of AdamW, on matrices only.
        options: as of :class:`methods.freeseg.mining_clip.MiningCLIP`.
    """

    sees = Supervision.PICTURES
    scores = "logit"

    def __init__(
        self,
        masks: str | None = "auto",
        network: Literal["segformer_embedded", "segformer_b0"] = "segformer_embedded",
        network_weights: str | None = None,
        network_revision: str | None = None,
        closed_outputs: Natural = 0,
        guard: Guard = "none",
        guard_at: Amount = 0.5,
        predicts: Literal["network", "mined"] = "network",
        augment: bool = True,
        learning_rate: Amount = 6e-5,
        weight_decay: Amount = 0.01,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.guard, self.guard_at, self.seed = guard, guard_at, run_seed()
        self.masks, self.augment, self.network_name, self.predicts = masks, augment, network, predicts
        self.learning_rate, self.weight_decay = learning_rate, weight_decay
        self.sees = self.map_sees if self.map_sees is Supervision.CAPTIONS else Supervision.PICTURES
        channels = self.backbone.channels
        self.closed = closed_outputs or None
        self.network = SegFormer(network, closed_outputs or channels, network_weights, network_revision)
        if not closed_outputs:
            self.logit_scale = nn.Parameter(torch.tensor(40.0).log())
            if self.mining.background is not None:
                self.background = nn.Parameter(torch.randn(1, channels) * channels**-0.5)
        self.mined: PerImage | None = None
        self.found = torch.zeros(IGNORED + 1, dtype=torch.bool)  # classes that any mask so far holds, by train id

    # What is asked -----------------------------------------------------------------------------------------------

    def embed_vocabulary(self, words: list[str]) -> None:
        """Text embeddings of the words and, where background is mined, a learnt one after them; a closed head's classes."""
        super().embed_vocabulary(words)
        if self.mines_background:
            background = torch.tensor([self.vocabulary.background], device=self.device)
            self.class_of_word = torch.cat([self.class_of_word, background])
        if self.closed:
            self.class_of_word = self.class_of_word.unique()
        elif self.mining.background is not None:
            self.background.requires_grad_(self.mines_background)  # DDP waits for what is trained

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.network(images)
        if self.closed:
            return features
        text_QC = self.text_QC
        if self.mines_background:
            text_QC = torch.cat([text_QC, F.normalize(self.background, dim=-1)])
        scale = self.logit_scale.exp().clamp(max=100)
        return scale * torch.einsum("bchw,qc->bqhw", F.normalize(features.float(), dim=1), text_QC)

    def patch_features(self, images: Tensor) -> Tensor:
        found: Tensor = self.network(images)
        return found

    # Mining ------------------------------------------------------------------------------------------------------

    def on_predict_start(self) -> None:
        if self.predicts == "mined" and self.mining.span == "collection":
            items = self.trainer.datamodule.items  # type: ignore[attr-defined]
            with remembered(self, TokenMemory()):
                self.measure_reach(
                    lambda: islice((item["image"][None] for item in items if item["image"] is not None), MEASURED)
                )

    def predict_step(self, batch: Batch, batch_idx: int) -> list[LabelMap | None]:
        if self.predicts == "network":
            return super().predict_step(batch, batch_idx)
        pairs = zip(batch["image"], batch["error"], strict=True)
        return [None if error else LabelMap(self.mine(image[None])[0].labels, None) for image, error in pairs]

    def prepare_fit(self, images: StillImages, workers: int) -> None:
        """Measures the maps' reach, and mines the masks of all training images, where they are kept."""
        memory, settings = TokenMemory(), self._settings()
        with remembered(self, memory):
            if self.mining.span == "collection":
                first = range(min(MEASURED, len(images)))
                self.measure_reach(
                    lambda: (of_one_size(some) for some in image_batches(images, first, workers)),
                    None if self.masks is None else _key_of_reach(settings, images),
                )
            memory.limit = memory.bytes  # what is measured is mined, too; the others come once
            if self.masks is not None:
                self._mine_all(self.masks, settings, images, workers)

    def _mine_all(self, folder: str, settings: dict[str, Any], images: StillImages, workers: int) -> None:
        settings["rules"] = asdict(self.mining) | {"background of": self.vocabulary.background}
        settings["reach"] = [None if of is None else state_hash(asdict(of)) for of in (self.reach, self.verdicts)]
        masks = PerImage("masks", folder, settings, images, "--model.masks")
        if masks.fill(lambda some: [encode(mask) for mask in self.mine(of_one_size(some))], workers):
            self.mined = masks
            classes = self.class_of_word.unique().tolist()
            self._report(statistics_of(masks, {train_id: self.vocabulary.names[train_id] for train_id in classes}))
        self.figure = self._preview(images)

    def _settings(self) -> dict[str, Any]:
        """All that the maps of a picture depend on, and the code of the mining."""
        of_map = {"scale": self.backbone.scale}
        of_map |= {} if self.projection is None else {"projection": self.projection}
        return {
            "words": [self.words, self.class_of_text.tolist()],
            "tower": [self.backbone.image_weights_hash(), state_hash(of_map)],
            "text": state_hash({"text": self.text_QC}),
            "map": {"rule": self.rule_name, "views": [asdict(view) for view in self.views]},
            "code": code_of(SimilarityMaker, type(self.backbone), SecondLook, mine),
        }

    def _report(self, found: MaskStatistics) -> None:
        """Says what was mined.

        Raises:
            UserError: nothing.
        """
        if self.trainer.is_global_zero:
            missed = f"; never found, and not trained: {', '.join(found.never_found)}" if found.never_found else ""
            print(f"mined masks: {found.labelled_share:.0%} of the pixels labelled{missed}", flush=True)
        if found.labelled_share == 0:
            raise UserError(f"no pixel of any picture was labelled with {self.mining}. Lower foreground, margin or positive.")

    def _preview(self, images: StillImages, count: int = 6) -> bytes:
        """A figure of the first images, the maps of their classes and their masks."""
        rows, classes = [], self.class_of_text.unique().tolist()
        for index in range(min(count, len(images))):
            image = images[0, index]["image"]
            maps = self.maps_of(image[None].to(self.device) / 255)[1][0].float().cpu().numpy()
            (mined,) = self.mine(image[None])
            present = set(mined.labels.unique().tolist())
            named = {self.vocabulary.names[k]: of_class for k, of_class in zip(classes, maps, strict=True) if k in present}
            rows.append(MinedPicture(image.permute(1, 2, 0).numpy(), named, mined.labels.cpu().numpy()))
        return mining_preview(rows, self.vocabulary.palette)

    # Training ----------------------------------------------------------------------------------------------------

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        images = of_one_size(batch["image"])
        mined = self.mine(images) if self.mined is None else self._kept(self.mined, batch["index"].tolist(), images)
        labels = torch.stack([one.labels for one in mined]).to(self.device)
        classes = self.class_of_word.unique()
        active = torch.stack([one.active for one in mined]).to(self.device) & self._found_with(labels, classes)
        if self.augment:
            images, labels = augmented(images, labels, [(self.seed, self.global_step, i) for i in batch["index"].tolist()])
        logits = best_of_class(self(images).float(), self.class_of_word)
        known_of = (position_among(classes, labels.long()), active[:, classes])
        loss = partial_cross_entropy(logits, *known_of, self.mining.min_labelled_share, self.guard, self.guard_at)
        self.log("train/loss", loss.detach(), prog_bar=True)
        self.log("train/labelled", (labels != IGNORED).float().mean())
        return loss

    def _found_with(self, labels: Tensor, classes: Tensor) -> Tensor:
        """(256,) bool, the classes that any mask has shown so far: without one, a class would only be unlearnt.

        Processes ask each other until every class was found.
        """
        if not self.found[classes].all():
            here = torch.bincount(labels.flatten(), minlength=IGNORED + 1) > 0
            self.found |= torch.stack(gathered([here.cpu()])).any(0).to(self.device)
        return self.found

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["found"] = self.found.cpu().clone()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        self.found = checkpoint.get("found", self.found).to(self.device).clone()

    def _kept(self, masks: PerImage, indices: list[int], images: Tensor) -> list[PartialMask]:
        contents = masks.read(indices, lambda missing: [encode(mask) for mask in self.mine(images[missing])])
        return [decode(content) for content in contents]

    def configure_optimizers(self) -> Any:
        total = int(self.trainer.estimated_stepping_batches)
        optimizer = adamw(self, self.learning_rate, self.weight_decay, (0.9, 0.999))
        return with_step_schedule(optimizer, lambda step: warmup_cosine(step, 50, total))


def _key_of_reach(settings: dict[str, Any], images: StillImages) -> str:
    return key_of(**settings, pictures=joined([images.contents()[:MEASURED]]), rendering=images.rendering())
