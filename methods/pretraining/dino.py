"""Pretrains a (tiny) DINO from unlabelled pictures alone; it made the embedded one of ``backbones/checkpoints``.

A student learns to say of a crop what its teacher, the mean of its own past, says of another crop of the same picture
(DINO, ICCV 2021), and of patches that are hidden from it what the teacher says of them where it sees them (iBOT, ICLR 2022,
with one head for both). The teacher's answers are centred and sharpened, so that they do not become the same for all.
DEVIATION: positions stay zero.

Shapes: B pictures, V crops of each, n patches of a crop, C width, P prototypes.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbones.patch_features import load_patch_features
from common.values import Amount, Count, Natural, Share
from methods.optim import adamw, warmup_cosine, with_step_schedule
from methods.proxy_clip import ProxyCLIP
from methods.supervision import Supervision
from methods.training_steps import Exported

GLOBAL, LOCAL = (0.2, 0.6), (0.05, 0.2)  # share of the picture's area that a crop shows
GLOBAL_SIDE, LOCAL_SIDE = 1 / 2, 1 / 4  # of the picture's side, whatever a crop shows
STUDENT, TEACHER = 0.1, 0.05  # temperatures
HIDDEN = 0.4  # share of the patches of a global crop
LIGHT = 0.2  # brightness and contrast are at most that far from 1
UNIT = 64  # width of the vectors that are compared with the prototypes
FORGETS = 0.1  # of the centres, a step


class SelfDistillation(ProxyCLIP):
    """DINO training on pictures, evaluated as ProxyCLIP's second tower.

    Args:
        learning_rate: peak, after ``warmup_steps``, then half a cosine to 0.
        weight_decay: of AdamW, on matrices only.
        warmup_steps: steps of linear warm-up.
        momentum: of the teacher at the start; it rises to 1 by half a cosine.
        prototypes: P.
        local_crops: small crops of each picture, beside two large ones.
        dino: configuration of the network, trained from random weights.
        options: as of :class:`methods.dense_clip.DenseCLIP`.
    """

    sees = Supervision.PICTURES
    centres: Tensor

    def __init__(
        self,
        learning_rate: Amount = 1e-3,
        weight_decay: Amount = 0.04,
        warmup_steps: Natural = 50,
        momentum: Share = 0.98,
        prototypes: Count = 512,
        local_crops: Natural = 2,
        dino: str = "tiny_dino",
        **options: Any,
    ) -> None:
        super().__init__(dino=dino, dino_pretrained=False, **options)
        self.learning_rate, self.weight_decay, self.warmup_steps = learning_rate, weight_decay, warmup_steps
        self.momentum, self.local_crops = momentum, local_crops
        width = int(self.dino.model.config.hidden_size)
        self.student = load_patch_features(dino, pretrained=False)
        self.student.load_state_dict(self.dino.state_dict())
        self.student.model.requires_grad_(True)
        for network in (self.student, self.dino):  # else a hidden patch is guessed from its place, and features tell places
            network.model.embeddings.position_embeddings.requires_grad_(False).zero_()
        self.student.model.embeddings.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.student_head = head(width, prototypes)
        self.teacher_head = copy.deepcopy(self.student_head).requires_grad_(False)
        self.register_buffer("centres", torch.zeros(2, prototypes))  # of pictures, of patches

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        self.teacher_follows()
        large = crops(batch["image"], 2, GLOBAL, self.side(GLOBAL_SIDE, batch))
        small = crops(batch["image"], self.local_crops, LOCAL, self.side(LOCAL_SIDE, batch))
        hidden = torch.rand(len(large), (large.shape[2] // self.dino.stride) ** 2, device=large.device) < HIDDEN
        with torch.no_grad():
            tokens = self.dino.tokens(self.dino.pixels(large))
            picture_target = self.target(self.teacher_head(tokens[:, 0]), 0)
            patch_target = self.target(self.teacher_head(tokens[:, 1:][hidden]), 1)
        tokens = self.student.tokens(self.student.pixels(large), bool_masked_pos=hidden)
        of_small = self.student.tokens(self.student.pixels(small))[:, 0]
        said = self.answers(torch.cat([tokens[:, 0], of_small]))
        losses = {
            "picture": between_crops(picture_target, said, len(batch["image"])),
            "patch": -(patch_target * self.answers(tokens[:, 1:][hidden])).sum(1).mean(),
        }
        self.log_dict({f"train/{name}": loss for name, loss in losses.items()})
        return sum(losses.values(), torch.zeros((), device=self.device))

    def side(self, share: float, batch: dict[str, Any]) -> int:
        """Pixels of a crop, whole patches."""
        return max(1, round(share * batch["image"].shape[3] / self.dino.stride)) * self.dino.stride

    def answers(self, tokens: Tensor) -> Tensor:
        """Log-probabilities (..., P) of the student."""
        return (self.student_head(tokens).float() / STUDENT).log_softmax(-1)

    def target(self, logits: Tensor, kind: int) -> Tensor:
        """Probabilities (N, P) of the teacher, centred by those of the steps before."""
        logits = logits.float()
        found = ((logits - self.centres[kind]) / TEACHER).softmax(-1)
        self.centres[kind].lerp_(logits.mean(0), FORGETS)
        return found

    @torch.no_grad()
    def teacher_follows(self) -> None:
        """The mean of the students so far, up to the step before."""
        progress = self.global_step / max(1, int(self.trainer.estimated_stepping_batches))
        keeps = 1 - (1 - self.momentum) * 0.5 * (1 + math.cos(math.pi * progress))
        for teacher, student in ((self.dino, self.student), (self.teacher_head, self.student_head)):
            own = dict(student.named_parameters())
            for name, weight in teacher.named_parameters():
                weight.lerp_(own[name], 1 - keeps)

    def configure_optimizers(self) -> Any:
        total = int(self.trainer.estimated_stepping_batches)
        optimizer = adamw(self, self.learning_rate, self.weight_decay, (0.9, 0.98))
        return with_step_schedule(optimizer, lambda step: warmup_cosine(step, self.warmup_steps, total))

    def export(self) -> dict[str, Exported]:
        """The teacher in half precision, as it is shipped."""
        return {"model.safetensors": Exported({name: value.half() for name, value in self.dino.model.state_dict().items()})}


def head(width: int, prototypes: int) -> nn.Sequential:
    """Logits of prototypes: an MLP to unit vectors, and their cosines with the prototypes (DINO, section 3.2)."""
    last = nn.utils.parametrizations.weight_norm(nn.Linear(UNIT, prototypes, bias=False))
    last.parametrizations.weight.original0.data.fill_(1)
    last.parametrizations.weight.original0.requires_grad = False
    return nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, UNIT), Unit(), last)


class Unit(nn.Module):
    """Vectors of length 1."""

    def forward(self, vectors: Tensor) -> Tensor:
        return F.normalize(vectors, dim=-1)


def between_crops(target: Tensor, said: Tensor, pictures: int) -> Tensor:
    """Mean cross-entropy between the teacher on a large crop and the student on every other crop of the picture.

    Args:
        target: (2 B, P) probabilities, crop by crop.
        said: (V B, P) log-probabilities, the large crops first.
        pictures: B.
    """
    pairs = -torch.einsum("tbp,vbp->tv", target.unflatten(0, (-1, pictures)), said.unflatten(0, (-1, pictures))) / pictures
    return (pairs.sum() - pairs.trace()) / (pairs.numel() - len(pairs))


def crops(images: Tensor, count: int, share: tuple[float, float], side: int) -> Tensor:
    """Crops (count B, 3, side, side), crop by crop, mirrored or not, under another light; drawn from torch.

    Args:
        images: (B, 3, H, W) in [0, 1].
        count: of each.
        share: of the area that a crop shows, at least and at most.
        side: pixels.
    """
    total = count * len(images)
    drawn = torch.rand(total, 6, device=images.device)
    scale = (share[0] + (share[1] - share[0]) * drawn[:, 0]).sqrt()
    where = torch.zeros(total, 2, 3, device=images.device)
    where[:, 0, 0] = torch.where(drawn[:, 1] < 0.5, scale, -scale)
    where[:, 1, 1] = scale
    where[:, :, 2] = (1 - scale)[:, None] * (2 * drawn[:, 2:4] - 1)
    grid = F.affine_grid(where, [total, 3, side, side], align_corners=False)
    cut = F.grid_sample(images.repeat(count, 1, 1, 1), grid, padding_mode="reflection", align_corners=False)
    contrast, light = (1 + LIGHT * (2 * drawn[:, 4:6] - 1)).T[:, :, None, None, None]
    mean = cut.mean((1, 2, 3), keepdim=True)
    return ((contrast * (cut - mean) + mean) * light).clamp(0, 1)
