"""FreeSeg (arXiv 2209.13558): masks mined from the similarity map of a CLIP, and a network trained on them.

1. Map: the ITSM (:mod:`methods.freeseg.similarity`) of CLIP, of CLIP Surgery or of a trained ICLIP.
2. Mining: image-level scores say which classes are present (partial label), the map which pixels are sure (partial pixel).
3. Training: cross-entropy over the labelled pixels and the classes that the picture says something about.

The paper's body and code were never published. The parts bear the abstract's names; how they work is INFERRED throughout, with
the alternatives in config, and no absolute number of the paper is known. Shapes: B pictures, Q words, C embedding.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from backbones.attention import RuleName, rule_named
from backbones.segformer import SegFormer
from common.errors import UserError, known
from common.files import cache_folder
from common.randomness import run_seed
from common.weights import state_hash
from methods.dense_clip import DenseCLIP
from methods.freeseg.mined_masks import MinedMasks
from methods.freeseg.mining import IGNORED, MiningRules, PartialMask, mine
from methods.freeseg.partial_loss import Guard, augmented, partial_cross_entropy
from methods.freeseg.preview import MinedPicture, mining_preview
from methods.freeseg.similarity import itsm, signed
from methods.optim import adamw, warmup_cosine, with_step_schedule
from methods.supervision import Supervision
from methods.training_free import feature_surgery
from methods.zeroseg.view_cache import refuse_changing


class FreeSeg(DenseCLIP):
    """See the module.

    Args:
        mining: rules of the partial label and the partial pixel, see :class:`methods.freeseg.mining.MiningRules`.
        scales: sizes of the picture that the map is averaged over, mirrored ones included.
        iclip: projection that :class:`methods.ICLIP` wrote; null for CLIP's own.
        masks: folder of the mined masks; ``auto`` for one of its own in the cache, null to mine at every step.
        network: ``segformer_embedded`` or ``segformer_b0``.
        network_weights: of its encoder, ``nvidia/mit-b0`` or a folder.
        network_revision: commit of its repository.
        closed_outputs: 0 for an open head, which compares pixel embeddings with the words, so that others can be asked at test
            time; the number of words (and one for mined background) for a closed one.
        guard: against wrong masks, once the mean loss is below ``guard_at``: ``clamp`` pixel losses at it ("pretended
            under-fitting"), so that the worst pixels give no gradient, ``drop`` them, or ``none``.
        guard_at: a loss in nats.
        augment: crop half to all of the area at random and mirror half of the pictures, each with its mask.
        learning_rate: of AdamW, then half a cosine to 0.
        weight_decay: of AdamW, on matrices only.
        rule: attention rule of the map: ``maskclip``, ``surgery``, ``clip`` ...
        options: as of :class:`methods.dense_clip.DenseCLIP`.
    """

    sees = Supervision.PICTURES
    scores = "logit"

    def __init__(
        self,
        mining: dict[str, Any] | None = None,
        scales: list[float] | None = None,
        iclip: str | None = None,
        masks: str | None = "auto",
        network: Literal["segformer_embedded", "segformer_b0"] = "segformer_embedded",
        network_weights: str | None = None,
        network_revision: str | None = None,
        closed_outputs: int = 0,
        guard: Guard = "none",
        guard_at: float = 0.5,
        augment: bool = True,
        learning_rate: float = 6e-5,
        weight_decay: float = 0.01,
        rule: RuleName = "maskclip",
        **options: Any,
    ) -> None:
        super().__init__(rule=rule, **options)
        for key in mining or {}:
            known("mining rule", key, asdict(MiningRules()))
        self.mining, self.scales = MiningRules(**(mining or {})), scales or [1.0]
        self.guard, self.guard_at, self.seed = guard, guard_at, run_seed()
        self.masks, self.augment, self.network_name = masks, augment, network
        self.learning_rate, self.weight_decay = learning_rate, weight_decay
        self.projection = None if iclip is None else _projection(iclip)
        self.sees = Supervision.PICTURES if iclip is None else Supervision.CAPTIONS  # which ICLIP has seen
        channels = int(self.backbone.visual.output_dim)
        self.closed = closed_outputs or None
        self.network = SegFormer(network, closed_outputs or channels, network_weights, network_revision)
        if not closed_outputs:
            self.logit_scale = nn.Parameter(torch.tensor(40.0).log())
            if self.mining.background is not None:
                self.background = nn.Parameter(torch.randn(1, channels) * channels**-0.5)
        self.mined: MinedMasks | None = None

    # What is asked -----------------------------------------------------------------------------------------------

    def embed_vocabulary(self, words: list[str]) -> None:
        """Text embeddings of the words and, where background is mined, a learnt one after them."""
        super().embed_vocabulary(words)
        if self.mines_background:
            background = torch.tensor([self.vocabulary.background], device=self.device)
            self.class_of_word = torch.cat([self.class_of_word, background])

    def followed_rules(self) -> frozenset[str]:
        """All prompts, which mining needs too; the network has no position embeddings."""
        return super().followed_rules() - {"position_resize"}

    @property
    def mines_background(self) -> bool:
        return self.mining.background is not None and self.vocabulary.background is not None

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

    @torch.no_grad()
    def similarity(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Image-level cosines (B, Q) by CLIP itself, and the map's (B, Q, h, w), mean over scales and mirrored pictures."""
        total, pooled = None, None
        for scale in self.scales:
            size = [round(scale * side) for side in images.shape[2:]]
            sized = F.interpolate(images, size, mode="bicubic", antialias=True) if scale != 1 else images
            both, dense = self.backbone.tokens(
                torch.cat([sized, sized.flip(3)]), self.rule_name, "bicubic", pooled=True, projection=self.projection
            )
            assert both is not None
            scores = torch.einsum("bchw,qc->bqhw", dense, self.text_QC)
            if rule_named(self.rule_name).surgery:
                scores = feature_surgery(scores, both @ self.text_QC.T)
            straight, mirrored = scores.chunk(2)
            found = straight + mirrored.flip(3)
            if total is None or pooled is None:
                total, pooled = found, both.chunk(2)[0]
            else:
                total = total + F.interpolate(found, total.shape[2:], mode="bilinear", align_corners=False)
        assert total is not None
        assert pooled is not None
        return pooled @ self.text_QC.T, total / (2 * len(self.scales))

    def mine(self, images: Tensor) -> list[PartialMask]:
        """Masks of pictures (B, 3, H, W), uint8 or in [0, 1], by the words that are asked."""
        images = images.to(self.device)
        images = images.float() / 255 if images.dtype == torch.uint8 else images
        cosines, similarity = self.similarity(images)
        probability = (cosines * self.backbone.clip.logit_scale.exp()).softmax(1)
        return mine(similarity, probability, images, self.mining)

    def on_fit_start(self) -> None:
        """Mines the masks of all training pictures, where they are kept."""
        if self.masks is None:
            return
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        loader = self.trainer.train_dataloader
        pictures = (data.train_dataloader() if loader is None else loader).dataset
        refuse_changing(pictures, "masks", "--model.masks")
        projection = {} if self.projection is None else {"projection": self.projection}
        settings = {
            "words": self.words,
            "clip": state_hash(self.backbone.visual.state_dict() | projection),
            "text": state_hash({"text": self.text_QC}),
            "map": {"rule": self.rule_name, "scales": self.scales},
            "rules": asdict(self.mining),
            "pictures": [getattr(pictures, "crop", "whole"), getattr(pictures, "size", 0)],
        }
        folder = Path(self.masks)
        if self.masks == "auto":
            folder = cache_folder("masks", hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:12])
        self.mined = MinedMasks(folder, settings, self.vocabulary.palette[self.class_of_word.cpu().numpy()])
        found = self.mined.fill(pictures, self.mine, data.num_workers, self.trainer.strategy.barrier)
        if self.trainer.is_global_zero:
            self.figure = folder / "preview.png"
            self._preview(pictures, self.figure)
            missed = f"; never found: {', '.join(found['never found'])}" if found["never found"] else ""
            print(f"mined masks: {found['labelled share']:.0%} of the pixels labelled{missed}; in '{folder}'", flush=True)
        if found["labelled share"] == 0:
            raise UserError(f"no pixel of any picture was labelled with {self.mining}. Lower foreground, margin or positive.")

    def _preview(self, pictures: Any, path: Path, count: int = 6) -> None:
        """A figure of the first pictures, the maps of their classes and their masks."""
        rows = []
        for index in range(min(count, len(pictures))):
            image = pictures[0, index]["image"]
            _, similarity = self.similarity(image[None].to(self.device) / 255)
            maps = signed(itsm(similarity), self.mining.sign)[0].float().cpu().numpy()
            (mined,) = self.mine(image[None])
            named = {self.words[q]: maps[q] for q in mined.labels.unique().tolist() if q < len(self.words)}
            rows.append(MinedPicture(image.permute(1, 2, 0).numpy(), named, mined.labels.cpu().numpy()))
        mining_preview(rows, self.vocabulary.palette[self.class_of_word.cpu().numpy()], path)

    # Training ----------------------------------------------------------------------------------------------------

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        images = batch["image"]
        if self.mined is None:
            mined = self.mine(images)
        else:
            pictures: Any = self.trainer.train_dataloader.dataset  # type: ignore[union-attr]
            mined = [self.mined.read(pictures.name(int(index))) for index in batch["index"]]
        labels = torch.stack([one.labels for one in mined]).to(self.device)
        active = torch.stack([one.active for one in mined]).to(self.device)
        if self.augment:
            images, labels = augmented(images, labels, [(self.seed, self.global_step, i) for i in batch["index"].tolist()])
        logits = F.interpolate(self(images).float(), labels.shape[1:], mode="bilinear", align_corners=False)
        loss = partial_cross_entropy(logits, labels, active, self.mining.min_labelled_share, self.guard, self.guard_at)
        self.log("train/loss", loss.detach(), prog_bar=True)
        self.log("train/labelled", (labels != IGNORED).float().mean())
        return loss

    def configure_optimizers(self) -> Any:
        total = int(self.trainer.estimated_stepping_batches)
        optimizer = adamw(self, self.learning_rate, self.weight_decay, (0.9, 0.999))
        return with_step_schedule(optimizer, lambda step: warmup_cosine(step, 50, total))


def _projection(file: str) -> Tensor:
    try:
        return load_file(file)["projection"]
    except (OSError, KeyError, ValueError) as error:
        raise UserError(f"'{file}' is no projection that ICLIP wrote: {error}") from error
