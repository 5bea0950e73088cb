"""IFSeg (CVPR 2023): image-free segmentation via a vision-language model.

A random map of class words stands in for a picture: each cell is the embedding of a class name where OFA's encoder expects
a trunk feature. The decoder reads the encoder's own cells, one step behind, and learns to name the class of every cell.
At test time a picture's features take the cells' place. Section numbers are the paper's; where it is silent, the released
code decides.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from backbones.ofa.loading import EMBEDDED, load_ofa
from datamodules.word_maps import draw_maps
from methods.map_loss import map_cross_entropy
from methods.ofa_zero_shot import OFAZeroShot
from methods.segmenter import Sees

BETAS = (0.9, 0.999)


class IFSeg(OFAZeroShot):
    """Trains an OFA on word maps of the class names alone.

    Trunk, its projection and all word embeddings are frozen; the class embeddings are also the output layer, so that only
    the asked classes can be said. The weights after the last step count: the reference keeps the best of its epochs on the
    *evaluation* pictures, which a method without labels cannot.

    Args:
        learning_rate: of AdamW, from the first step, then half a cosine to 0.
        weight_decay: on all trained weights.
        dropout: of embeddings and branches.
        drop_path: of the last layers' branches.
        size: ``tiny`` to ``huge`` as published, or ``embedded``.
        weights: ``embedded``, a file of weights, ``hf-hub:OFA-Sys/ofa-base``, or null for random ones.
        revision: commit of an ``hf-hub:`` repository.
        tokenizer: folder of OFA's tokenizer files; null for the embedded one's.
        protocol: name of a preset.
        protocol_values: single rules to change.
        window_batch: windows scored at once.
    """

    sees = Sees.NAMES

    def __init__(
        self,
        learning_rate: float = 5e-5,
        weight_decay: float = 0.1,
        dropout: float = 0.1,
        drop_path: float = 0.1,
        size: str = "embedded",
        weights: str | None = EMBEDDED,
        revision: str | None = None,
        tokenizer: str | None = None,
        protocol: str = "shapes",
        protocol_values: dict[str, Any] | None = None,
        window_batch: int = 64,
    ) -> None:
        super().__init__("surrogate", size, weights, revision, tokenizer, protocol, protocol_values, window_batch)
        self.save_hyperparameters(logger=False)
        self.ofa = load_ofa(size, weights, revision, dropout=dropout, drop_path=drop_path)
        self.learning_rate, self.weight_decay = learning_rate, weight_decay
        encoder = self.ofa.encoder
        for frozen in (encoder.embed_images, encoder.image_proj, encoder.embed_tokens):
            frozen.requires_grad_(False)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        config, words = self.ofa.config, len(self.class_embeddings)
        cells = self.class_embeddings[draw_maps(batch, words, config.grid)]
        logits_BLQ = self.name_cells(self.ofa.encode_map(cells, self.source)).float()
        logits = logits_BLQ.transpose(1, 2).unflatten(2, (config.grid, config.grid))
        target = draw_maps(batch, words, config.grid * config.stride)
        loss = map_cross_entropy(logits, target)
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        for group in optimizer.param_groups:
            group["eps"] = fairseq_epsilon(self.global_step + 1)

    def configure_optimizers(self) -> Any:
        trained = [p for p in self.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=self.learning_rate, betas=BETAS, weight_decay=self.weight_decay)
        total = self.trainer.estimated_stepping_batches
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda n: 0.5 * (1 + math.cos(math.pi * min(1, n / total))))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def fairseq_epsilon(step: int, epsilon: float = 1e-8) -> float:
    """AdamW's epsilon that makes its n-th step fairseq's, which adds its own before the second moment's bias correction."""
    return epsilon / math.sqrt(1 - BETAS[1] ** step)
