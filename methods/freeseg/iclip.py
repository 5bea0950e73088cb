"""ICLIP (arXiv 2209.07046): dense CLIP whose tokens are projected anew, so that their similarity map lies on the objects.

CLIP stays frozen and keeps its own projection for recognition; a second one is trained by InfoNCE between a *pooling* of the
projected tokens and the text (dual projections). The tokens are those of the attention ``rule`` that the map is made of, in
training as in use. The pooling decides where the map lies (:mod:`methods.freeseg.pooling`). The bodies of ICLIP's and
FreeSeg's papers are public, but only their abstracts were available where this was written; every choice here that those do
not state is INFERRED.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbones.attention import RuleName
from backbones.clip import CLIP
from common.values import Amount
from methods.dense_clip import DenseCLIP
from methods.freeseg.pooling import Pooling, attended, pool
from methods.info_nce import caption_is_true, captions, info_nce
from methods.optim import adamw, warmup_cosine, with_step_schedule
from methods.supervision import Supervision
from methods.training_steps import Exported


class ICLIP(DenseCLIP):
    """See the module.

    Args:
        pooling: ``max`` or ``masked_max`` (ICLIP), ``smooth_min`` or ``log_sum_exp`` (FreeSeg), ``min``, ``mean``.
        pool_space: ``features`` pools the tokens, then compares; ``similarity`` pools the similarities to each text.
        temperature: of the smoothed minima, in standard deviations over the tokens.
        mask: tokens that ``masked_max`` may take: ``attention`` holds 60 % of CLIP's own class attention (DEVIATION: ICLIP
            takes that of a self-supervised encoder), ``none`` all.
        text: ``captions`` of the pictures, or ``names``: the class name that CLIP itself finds in the picture.
        keep: weight of the squared distance of the projection from CLIP's, which keeps the vocabulary open.
        learning_rate: of AdamW, then half a cosine to 0.
        weight_decay: of AdamW.
        rule: attention rule of the tokens that are projected; :class:`methods.FreeSeg` takes the same one.
        options: as of :class:`methods.dense_clip.DenseCLIP`.
    """

    sees = Supervision.CAPTIONS
    backbone: CLIP

    def __init__(
        self,
        pooling: Pooling = "smooth_min",
        pool_space: Literal["features", "similarity"] = "features",
        temperature: Amount = 0.1,
        mask: Literal["none", "attention"] = "none",
        text: Literal["captions", "names"] = "captions",
        keep: Amount = 1e-3,
        learning_rate: Amount = 5e-4,
        weight_decay: Amount = 0.05,
        rule: RuleName = "maskclip",
        **options: Any,
    ) -> None:
        super().__init__(rule=rule, **options)
        self.pooling, self.temperature = pooling, temperature
        self.pool_space = pool_space
        self.mask = mask
        self.text_source = text
        self.sees = Supervision.CAPTIONS if text == "captions" else Supervision.PICTURES
        self.keep, self.learning_rate, self.weight_decay = keep, learning_rate, weight_decay
        self.check_clip()
        self.projection = nn.Parameter(self.backbone.visual.proj.detach().clone())
        self.logit_scale = nn.Parameter(self.backbone.clip.logit_scale.detach().clone())

    def forward(self, images: Tensor) -> Tensor:
        return torch.einsum("bchw,qc->bqhw", self.patch_features(images), self.text_QC)

    def patch_features(self, images: Tensor) -> Tensor:
        """The dense tokens, projected anew."""
        return self.backbone.tokens(images, self.rule_name, self.protocol.windows.position_resize, projection=self.projection)[
            1
        ]

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        images = batch["image"]
        with torch.no_grad():
            resize, named = self.protocol.windows.position_resize, self.text_source == "names"
            pooled_BC, stream, _ = self.backbone.stream(images, self.rule_name, resize, pooled=named)
            tokens_BND = self.backbone.visual.ln_post(stream)[:, 1:]
            text_BC, true_BB = self._texts(batch, pooled_BC)
        allowed = attended(self.backbone.class_attention(images)) if self.mask == "attention" else None
        z_BNC = tokens_BND @ self.projection
        scale = self.logit_scale.exp().clamp(max=100)
        if self.pool_space == "features":
            pooled = F.normalize(pool(z_BNC, self.pooling, self.temperature, allowed).float(), dim=-1)
            similarity = pooled @ text_BC.T
        else:
            similarity = pool(F.normalize(z_BNC.float(), dim=-1) @ text_BC.T, self.pooling, self.temperature, allowed)
        loss = info_nce(similarity, true_BB, scale)
        self.log("train/info_nce", loss.detach(), prog_bar=True)
        return loss + self.keep * (self.projection - self.backbone.visual.proj).square().sum()

    def _texts(self, batch: dict[str, Any], pooled_BC: Tensor | None) -> tuple[Tensor, Tensor]:
        """A text embedding (B, C) for every picture, and (B, B) which texts are known to be true of which pictures."""
        if pooled_BC is not None:
            best = (pooled_BC @ self.text_QC.T).argmax(1)
            named = self.class_of_word[best]
            return self.text_QC[best], named[:, None] == named
        tokens = self.backbone.tokenizer(captions(batch)).to(self.device)
        text = F.normalize(self.backbone.clip.encode_text(tokens).float(), dim=-1)
        own = torch.eye(len(text), dtype=torch.bool, device=text.device)
        return text, caption_is_true(batch["said"], batch["visible"]) if "said" in batch else own

    def configure_optimizers(self) -> Any:
        total = int(self.trainer.estimated_stepping_batches)
        optimizer = adamw(self, self.learning_rate, self.weight_decay, (0.9, 0.999))
        return with_step_schedule(optimizer, lambda step: warmup_cosine(step, 0, total))

    def export(self) -> dict[str, Exported]:
        """The projection, for ``FreeSeg --model.iclip``."""
        return {
            "iclip.safetensors": Exported({"projection": self.projection}, {"rule": self.rule_name, "sees": self.sees.name})
        }
