"""What trains of an OFA for maps of words, how, and what is kept of it at the end; IFSeg (CVPR 2023), sections 3.3 and 4."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor

from backbones.ofa.loading import ADDED_BY_IFSEG
from common.errors import UserError
from common.values import Amount, Share
from methods.ifseg.ofa_segmenter import OFASegmenter
from methods.optim import warmup_cosine, with_step_schedule
from methods.weights_before import WeightsBefore

BETAS = (0.9, 0.999)


class TrainedOFA(OFASegmenter):
    """Base of the methods that train an OFA to name cells.

    Trunk, its projection and all word embeddings are frozen; the class embeddings are also the output layer, so that only
    the asked classes can be said.

    Args:
        learning_rate: of AdamW, half a cosine to 0.
        weight_decay: on all trained weights.
        warmup_share: share of the steps in which the rate grows from nothing; interpolated models of several seeds then differ
            less (docs/ifseg.md). 0, as in the paper: none.
        interpolation: what is read after training is this share of the trained weights and the rest of the pretrained ones
            (WiSE-FT, CVPR 2022): maps of words pull the model away from what it knew of pictures. Checkpoints hold the
            trained ones, so that ``test`` may ask for another share. What IFSeg adds to an OFA stays as trained. 1, as in the
            paper: none.
        options: as of :class:`methods.ifseg.ofa_segmenter.OFASegmenter`.
    """

    read_options = frozenset({"interpolation"})

    def __init__(
        self,
        learning_rate: Amount = 5e-5,
        weight_decay: Amount = 0.1,
        warmup_share: Share = 0.0,
        interpolation: Share = 1.0,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.learning_rate, self.weight_decay, self.warmup_share = learning_rate, weight_decay, warmup_share
        if interpolation < 1 and not self.pretrained_parts:
            raise UserError(
                f"interpolation {interpolation} mixes trained weights with pretrained ones, which weights null makes up; "
                "give weights, or interpolation 1."
            )
        encoder, decoder = self.ofa.encoder, self.ofa.decoder
        frozen = [encoder.embed_images, encoder.image_proj, encoder.embed_tokens]
        # of text and drawn pictures: they never get a gradient here, which DDP would wait for
        frozen += [decoder.embed_positions, decoder.pos_ln, decoder.token_rel_pos_table_list, decoder.code_layernorm_embedding]
        frozen += [decoder.embed_image_positions, decoder.image_pos_ln, decoder.image_rel_pos_table_list]
        for part in frozen:
            part.requires_grad_(False)
        trained = {name: weight for name, weight in self.ofa.named_parameters() if weight.requires_grad}
        known = {f"ofa.{name}": weight for name, weight in trained.items() if not ADDED_BY_IFSEG.match(name)}
        self.before = WeightsBefore(known, interpolation)

    @abstractmethod
    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """The loss."""

    def read(self, features: Tensor) -> Tensor:
        return self.name_cells(self.ofa.encode_features(features, self.source))

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        for group in optimizer.param_groups:
            group["eps"] = fairseq_epsilon(self.global_step + 1)

    def as_read(self, trained: dict[str, Tensor]) -> dict[str, Tensor]:
        return self.before.interpolated(trained)

    def configure_optimizers(self) -> Any:
        trained = [p for p in self.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=self.learning_rate, betas=BETAS, weight_decay=self.weight_decay)
        total = int(self.trainer.estimated_stepping_batches)
        warmup = round(self.warmup_share * total)
        return with_step_schedule(optimizer, lambda step: warmup_cosine(step, warmup, total))


def fairseq_epsilon(step: int, epsilon: float = 1e-8) -> float:
    """AdamW's epsilon that makes its n-th step fairseq's, which adds its own before the second moment's bias correction."""
    return epsilon / math.sqrt(1 - BETAS[1] ** step)
