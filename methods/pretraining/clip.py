"""Pretrains a (tiny) CLIP from captions alone; it made the embedded model of ``backbones/checkpoints``.

Two phases, because twenty minutes on two cores are not 400 million pictures:

1. Tagging, to teach the trunk to see: a linear head on the patch tokens, pooled by log-sum-exp, says which of the
   captions' words are visible. The head is thrown away; words and patches are never aligned.
2. InfoNCE between the class token and the caption, as CLIP (ICML 2021). A caption that is also true of another picture
   of the batch is left out of that picture's negatives.

No mask is used: what a picture shows is known from its captions.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from backbones.attention import RuleName
from backbones.clip import CLIP
from common.values import Amount, Natural
from methods.info_nce import caption_is_true, captions, info_nce
from methods.optim import adamw_in_two_phases
from methods.pretraining.tagging import tagging_loss
from methods.supervision import Supervision
from methods.training_free import TrainingFree
from methods.training_steps import Exported


class CaptionPretraining(TrainingFree):
    """CLIP training on pictures with captions, evaluated as a dense CLIP.

    A phase trains a part of the weights: several processes need ``--trainer.strategy ddp_find_unused_parameters_true``.

    Args:
        learning_rate: peak of each phase, after ``warmup_steps``, then half a cosine to 0.
        weight_decay: of AdamW, on matrices only.
        warmup_steps: steps of linear warm-up.
        tagging_steps: length of phase 1.
        tags: number of things that a caption can name.
        rule: attention rule of the evaluation.
        clip: open_clip model or config file, trained from random weights.
        options: as of :class:`methods.segmenter.Segmenter`.
    """

    sees = Supervision.CAPTIONS
    backbone: CLIP

    def __init__(
        self,
        learning_rate: Amount = 1e-3,
        weight_decay: Amount = 0.05,
        warmup_steps: Natural = 100,
        tagging_steps: Natural = 1500,
        tags: Natural = 20,
        rule: RuleName = "clip",
        clip: str = "tiny_clip",
        **options: Any,
    ) -> None:
        super().__init__(rule=rule, clip=clip, pretrained=None, **options)
        self.learning_rate, self.weight_decay, self.warmup_steps = learning_rate, weight_decay, warmup_steps
        self.tagging_steps = tagging_steps
        self.check_clip()
        self.backbone.requires_grad_(True)
        self.tag_head = nn.Linear(self.backbone.visual.transformer.width, tags)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        x, _ = self.backbone.encode(batch["image"], self.protocol.windows.position_resize)
        if self.global_step < self.tagging_steps:
            loss = tagging_loss(self.tag_head(self.backbone.visual.ln_post(x)[:, 1:]), batch["visible"])
            self.log("train/tagging", loss)
            return loss
        pictures = self.backbone.pool(x)
        tokens = self.backbone.tokenizer(captions(batch)).to(self.device)
        text = F.normalize(self.backbone.clip.encode_text(tokens).float(), dim=-1)
        true = caption_is_true(batch["said"], batch["visible"])
        loss = info_nce(pictures @ text.T, true, self.backbone.clip.logit_scale.exp().clamp(max=100))
        self.log("train/info_nce", loss)
        return loss

    def configure_optimizers(self) -> Any:
        total = int(self.trainer.estimated_stepping_batches)
        return adamw_in_two_phases(self, self.learning_rate, self.weight_decay, self.warmup_steps, self.tagging_steps, total)

    def on_validation_epoch_start(self) -> None:
        """The text tower has moved since the words were embedded."""
        self.use_vocabulary(self.vocabulary)
        super().on_validation_epoch_start()

    def export(self) -> dict[str, Exported]:
        """The weights in half precision, as they are shipped."""
        return {"clip.safetensors": Exported({name: value.half() for name, value in self.backbone.clip.state_dict().items()})}
