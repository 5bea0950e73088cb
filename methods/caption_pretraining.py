"""Pretrains a (tiny) CLIP from captions alone; it made the embedded model of ``backbones/checkpoints``.

Two terms, in two phases, because ten minutes on two cores are not 400 million pictures:

1. words to patches: a phrase's logit for a picture is the log-sum-exp over the patches of their cosine; binary
   cross-entropy against "the caption says so". It teaches the trunk to see.
2. InfoNCE between pooled picture and caption, as CLIP (ICML 2021). A caption that is also true of another picture of
   the batch is left out of that picture's negatives.

No mask is used: what a picture shows is known from its captions.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from methods.segmenter import Sees
from methods.training_free import TrainingFree
from zerolabel_common import atomic_path

SHARPNESS = 10.0  # of the log-sum-exp over patches: 0 is their mean, infinity their maximum


class CaptionPretraining(TrainingFree):
    """CLIP training on pictures with captions, evaluated as a dense CLIP.

    Args:
        learning_rate: peak, after ``warmup_steps``, then half a cosine to 0.
        weight_decay: of AdamW, on matrices only.
        warmup_steps: steps of linear warm-up.
        local_share: share of the training spent in phase 1.
        rule: attention rule of the evaluation.
        clip: open_clip model or config file, trained from random weights.
        protocol: evaluation preset.
        protocol_values: single rules to change.
        window_batch: windows scored at once.
    """

    sees = Sees.CAPTIONS

    def __init__(
        self,
        learning_rate: float = 1e-3,
        weight_decay: float = 0.05,
        warmup_steps: int = 100,
        local_share: float = 0.6,
        rule: str = "clip",
        clip: str = "tiny_clip",
        protocol: str = "shapes",
        protocol_values: dict[str, Any] | None = None,
        window_batch: int = 64,
    ) -> None:
        super().__init__(rule, clip, None, None, protocol, protocol_values, window_batch)
        self.save_hyperparameters(logger=False)
        self.learning_rate, self.weight_decay, self.warmup_steps = learning_rate, weight_decay, warmup_steps
        self.local_share = local_share
        self.backbone.requires_grad_(True)
        self.local_scale = nn.Parameter(torch.tensor(2.5))
        self.local_bias = nn.Parameter(torch.tensor(-3.0))

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        pooled, patches = self._embed(batch["image"])
        text = F.normalize(self.backbone.clip.encode_text(self._tokens(batch["caption"])).float(), dim=-1)
        true = caption_is_true(batch["said"], batch["visible"])
        if self.global_step < self.local_share * self.trainer.estimated_stepping_batches:
            single = batch["said"].sum(1) == 1  # a patch is one thing: only captions of one phrase
            loss = self.words_to_patches(patches, text[single], true[:, single])
            self.log("train/words_to_patches", loss)
        else:
            loss = info_nce(pooled, text, true, self.backbone.clip.logit_scale.exp().clamp(max=100))
            self.log("train/info_nce", loss, prog_bar=True)
        return loss

    def words_to_patches(self, patches: Tensor, text: Tensor, true: Tensor) -> Tensor:
        """Phase 1's term.

        Args:
            patches: (B, n, C) unit-norm.
            text: (P, C) unit-norm, captions of one phrase.
            true: (B, P) bool, whether the picture's captions say the phrase.
        """
        cosines_BnP = patches @ text.T
        pooled_BP = (torch.logsumexp(SHARPNESS * cosines_BnP, 1) - math.log(patches.shape[1])) / SHARPNESS
        logits = self.local_scale.exp() * pooled_BP + self.local_bias
        return F.binary_cross_entropy_with_logits(logits, true.float())

    def configure_optimizers(self) -> Any:
        matrices = [p for p in self.parameters() if p.ndim >= 2]
        others = [p for p in self.parameters() if p.ndim < 2]
        groups = [{"params": matrices, "weight_decay": self.weight_decay}, {"params": others, "weight_decay": 0.0}]
        optimizer = torch.optim.AdamW(groups, lr=self.learning_rate, betas=(0.9, 0.98))
        total = self.trainer.estimated_stepping_batches

        def schedule(step: int) -> float:
            return min(1.0, (step + 1) / self.warmup_steps) * 0.5 * (1 + math.cos(math.pi * min(1.0, step / total)))

        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_validation_epoch_start(self) -> None:
        """The text tower has moved since the words were embedded."""
        self.use_vocabulary(self.vocabulary)
        super().on_validation_epoch_start()

    def on_train_end(self) -> None:
        """Writes the weights in half precision, as they are shipped."""
        if self.trainer.is_global_zero and self.trainer.log_dir:
            weights = {k: v.detach().half().cpu().contiguous() for k, v in self.backbone.clip.state_dict().items()}
            with atomic_path(f"{self.trainer.log_dir}/clip.safetensors") as path:
                save_file(weights, path)

    def _embed(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Unit-norm picture (B, C) and patch (B, n, C) embeddings."""
        x, _ = self.backbone.embed_patches(images, self.protocol.position_resize)
        for block in self.backbone.blocks:
            x = block(x)
        pooled = self.backbone.visual._pool(x)[0] @ self.backbone.visual.proj
        return F.normalize(pooled.float(), dim=-1), F.normalize(self.backbone.project(x)[:, 1:].float(), dim=-1)

    def _tokens(self, captions: list[str]) -> Tensor:
        return self.backbone.tokenizer(captions).to(self.device)


def caption_is_true(said: Tensor, visible: Tensor) -> Tensor:
    """(B, P): whether everything that caption j says (P, W) is visible (B, W) in picture i."""
    return (~visible).float() @ said.float().T == 0


def info_nce(pictures: Tensor, text: Tensor, true: Tensor, scale: Tensor) -> Tensor:
    """Symmetric InfoNCE of unit embeddings (B, C) and (B, C), with true captions of others left out."""
    others = true & ~torch.eye(len(true), dtype=torch.bool, device=true.device)
    logits = (scale * pictures @ text.T).masked_fill(others, -torch.inf)
    diagonal = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, diagonal) + F.cross_entropy(logits.T, diagonal)) / 2
