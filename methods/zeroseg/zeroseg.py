"""ZeroSeg (ICCV 2023): segment tokens of a masked autoencoder, distilled from a frozen CLIP's views of unlabelled pictures.

The teacher describes a picture by the embeddings of its views, the cells of 1x1 to 4x4 grids. The student sees 40 % of the
patches, groups them into segment tokens and learns (a) that its global vector is near every view's, (b) that every segment
token is near one local view's, (c) to reconstruct the hidden patches. The code was not available; what the paper leaves open is
marked INFERRED, and what departs from it DEVIATION. Shapes: B pictures, n views, m segment tokens, C the teacher's embedding.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from backbones.clip import CLIP, EMBEDDED
from backbones.mae import MAE
from backbones.tower import DenseTower
from backbones.towers import load_tower
from common.errors import UserError
from common.randomness import ImageNoise, run_seed
from common.values import Amount, Natural, Share
from methods.dense_clip import embed_words
from methods.optim import adamw, warmup_cosine, with_step_schedule
from methods.per_image import StillImages
from methods.supervision import Supervision
from methods.weights_before import WeightsBefore
from methods.zeroseg.grouping import GroupingRules, SegmentationHead, mlp
from methods.zeroseg.segment_tokens import SegmentTokens
from methods.zeroseg.teacher import FeatureNorm, Teacher
from methods.zeroseg.token_segmenter import TokenSegmenter

Reduction = Literal["mean", "sum"]
PAPER_BATCH = 4096
LR_BATCH = 256  # pictures that the learning rate is given for (MAE's rule)


class ZeroSeg(TokenSegmenter):
    """See the module; section numbers of the paper's method are 3.1 to 3.3.

    Args:
        learning_rate: of AdamW for 256 pictures a step; it grows in proportion. Warm-up, then half a cosine to 0.
        weight_decay: of AdamW, on matrices only. INFERRED, as MAE.
        warmup_share: share of the training that warms up (20 of 80 epochs).
        mask_ratio: share of the patches hidden from the student.
        grids: sides of the grids of views.
        distill: weight of the multi-scale distillation |z - v_k|. Weights are INFERRED.
        match: weight of the segment matching min_j |g_i - v_j|, without the whole picture.
        reconstruct: weight of the masked reconstruction.
        cover: DEVIATION unless 0: weight of min_i |g_i - v_j|, which asks a token for every local view.
        feature_norm: ``none`` takes the teacher's embeddings as they are (INFERRED), ``teacher`` scales them to length 1,
            ``both`` also the student's. DEVIATION ``standardised``: length 1, then mean 0 and variance 1 in every dimension
            over all pictures; undone before tokens meet words.
        dim_reduction: of the absolute differences over the C dimensions, ``mean`` (INFERRED) or ``sum``.
        set_reduction: over views or tokens, ``sum`` (as Eq. 1) or ``mean``.
        group_tokens: of the grouping stages.
        depths: layers of each stage and after the last.
        segment_projection: ``shared_mlp`` for global vector and tokens (INFERRED), or ``none`` for the tokens.
        centre_keys: DEVIATION if true, see :class:`methods.zeroseg.grouping.GroupingRules`.
        mixing: DEVIATION if false, see there.
        norm_pix_loss: reconstruct pixels normalised per patch.
        size: of the masked autoencoder, ``base`` or ``embedded``.
        encoder_init: ``random`` (INFERRED), ``mae`` (published weights) or ``teacher``: DEVIATIONS.
        interpolation: DEVIATION below 1: the encoder is read at this share of its trained weights and the rest of those it
            started from (WiSE-FT, CVPR 2022). Checkpoints hold the trained ones, so that ``test`` may ask for another share.
        mae_weights: ``facebook/vit-mae-base``, a folder, or a file of facebookresearch/mae, for ``encoder_init: mae``.
        mae_revision: commit of its repository.
        clip: the teacher, one of ``zerolabel list towers``; see :func:`backbones.towers.load_tower`.
        pretrained: its weights.
        revision: commit of a teacher of the hub.
        cache: folder of the views' embeddings; ``auto`` for the cache, null to embed them at every step.
        seed: of masks and assignments, with the step and the picture; default: the run's (``--seed_everything``).
        options: as of :class:`methods.segmenter.Segmenter`.
    """

    sees = Supervision.PICTURES
    read_options = frozenset({"interpolation"})

    def __init__(
        self,
        learning_rate: Amount = 1.5e-4,
        weight_decay: Amount = 0.05,
        warmup_share: Share = 0.25,
        mask_ratio: Share = 0.6,
        grids: list[int] | None = None,
        distill: Amount = 1.0,
        match: Amount = 1.0,
        reconstruct: Amount = 1.0,
        cover: Amount = 0.0,
        feature_norm: FeatureNorm = "none",
        dim_reduction: Reduction = "mean",
        set_reduction: Reduction = "sum",
        group_tokens: list[int] | None = None,
        depths: list[int] | None = None,
        segment_projection: Literal["shared_mlp", "none"] = "shared_mlp",
        centre_keys: bool = False,
        mixing: bool = True,
        norm_pix_loss: bool = False,
        size: str = "embedded",
        encoder_init: Literal["random", "mae", "teacher"] = "random",
        interpolation: Share = 1.0,
        mae_weights: str | None = None,
        mae_revision: str | None = None,
        clip: str = "tiny_clip",
        pretrained: str | None = EMBEDDED,
        revision: str | None = None,
        cache: str | None = "auto",
        seed: Natural | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.grids, group_tokens, depths = grids or [1, 2, 3, 4], group_tokens or [32, 8], depths or [2, 2, 1]
        if len(depths) != len(group_tokens) + 1:
            raise UserError(f"depths {depths} must be one more than the group_tokens' {len(group_tokens)} stages.")
        if self.grids[0] != 1 or len(self.grids) < 2:
            raise UserError(f"grids are {self.grids}; the first must be 1, the whole picture, and a finer one must follow.")
        self.learning_rate, self.weight_decay, self.warmup_share = learning_rate, weight_decay, warmup_share
        self.mask_ratio, self.feature_norm, self.cache, self.seed = mask_ratio, feature_norm, cache, run_seed(seed)
        self.weights = {"distill": distill, "match": match, "cover": cover, "reconstruct": reconstruct}
        self.dim_reduction, self.set_reduction = dim_reduction, set_reduction
        teacher = load_tower(clip, pretrained, revision)
        self.teacher, self.tower_saw = Teacher(teacher, self.grids, feature_norm), teacher.saw
        self.pretrained_parts = ("teacher.clip",) if teacher.pretrained else ()
        self.student = MAE(size, mae_weights if encoder_init == "mae" else None, mae_revision, norm_pix_loss)
        _start(self.student, encoder_init, teacher, interpolation)
        known = {f"student.{name}": weight for name, weight in self.student.encoder_parameters().items()}
        self.before = WeightsBefore(known, interpolation)
        width, channels = self.student.width, self.teacher.channels
        rules = GroupingRules(centre_keys, mixing)
        self.head = SegmentationHead(width, self.student.heads, group_tokens, depths, rules)
        self.project = mlp(width, 4 * width, channels)
        self.project_tokens = self.project if segment_projection == "shared_mlp" else torch.nn.Identity()
        if segment_projection == "none" and width != channels:
            raise UserError(
                f"segment tokens are {width} wide, the teacher's embedding {channels}; set segment_projection shared_mlp."
            )
        self.size = size

    def embed_vocabulary(self, words: list[str]) -> None:
        self.text_QC, self.class_of_word = embed_words(
            words, self.class_of_word, self.protocol.prompt, self.teacher.clip.embed_text
        )

    def groups(self, images: Tensor) -> SegmentTokens:
        latent = self.student.encode(images)
        segments, assignment = self.head(latent.tokens[:, 1:])
        z, tokens = self._embeddings(segments)
        z, tokens = self.teacher.restored(z), self.teacher.restored(tokens)
        return SegmentTokens(assignment.unflatten(2, latent.grid), tokens, z)

    def _embeddings(self, segments: Tensor) -> tuple[Tensor, Tensor]:
        """Segments (B, m, D) -> global vector (B, C) and segment tokens (B, m, C)."""
        z, tokens = self.project(segments.mean(1)).float(), self.project_tokens(segments).float()
        if self.feature_norm == "both":
            z, tokens = F.normalize(z, dim=-1), F.normalize(tokens, dim=-1)
        return z, tokens

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        images = batch["image"]
        views = self.teacher.targets(batch["index"].tolist())
        noise = ImageNoise(self.seed, self.global_step, batch["index"])
        side = images.shape[-1] // self.student.stride
        latent = self.student.encode(images, noise(side * side), self.mask_ratio)
        segments, _ = self.head(latent.tokens[:, 1:], noise)
        z, tokens = self._embeddings(segments)
        losses = self.distances(z, tokens, views)
        losses["reconstruct"] = self.student.reconstruction_loss(images, latent)
        for name, value in losses.items():
            self.log(f"train/{name}", value.detach())
        loss = torch.stack([self.weights[name] * value for name, value in losses.items()]).sum()
        self.log("train/loss", loss.detach(), prog_bar=True)
        return loss

    def distances(self, z: Tensor, tokens: Tensor, views: Tensor) -> dict[str, Tensor]:
        """The losses between z (B, C), tokens (B, m, C) and views (B, n, C); the first view is the whole picture (Eq. 1)."""
        global_Bn = self._l1(z[:, None], views)
        local_Bmj = self._l1(tokens[:, :, None], views[:, None, 1:])
        reduce = torch.sum if self.set_reduction == "sum" else torch.mean
        return {
            "distill": reduce(global_Bn, -1).mean(),
            "match": reduce(local_Bmj.amin(2), -1).mean(),
            "cover": reduce(local_Bmj.amin(1), -1).mean(),
        }

    def _l1(self, a: Tensor, b: Tensor) -> Tensor:
        difference = (a - b).abs()
        return difference.mean(-1) if self.dim_reduction == "mean" else difference.sum(-1)

    def prepare_fit(self, images: StillImages, workers: int) -> None:
        """The teacher embeds the views of all images.

        Raises:
            UserError: they change, or are not of the size that the decoder reconstructs; before hours go into views.
        """
        if self.cache is not None:
            images.rendering()  # refuses what cannot be kept; its way out comes before that of a wrong size
        height, width = images[0, 0]["image"].shape[-2:]
        if {height, width} != {side := int(self.student.model.config.image_size)}:
            raise UserError(
                f"images are {height} x {width}, but ZeroSeg's autoencoder of size '{self.size}' is for {side} x {side}. "
                f"Set --data.size {side}, and --data.crop centre or random."
            )
        self._compare_with_the_recipe()
        precision = self.trainer.precision_plugin
        self.teacher.prepare(images, workers, self.cache, str(precision.precision), precision.forward_context)

    def _compare_with_the_recipe(self) -> None:
        """Says where the published size is trained with another batch than published."""
        if self.size == "base" and self.images_per_step != PAPER_BATCH and self.trainer.is_global_zero:
            per_batch = self.images_per_step // self.trainer.accumulate_grad_batches
            print(
                f"note: ZeroSeg's paper takes {PAPER_BATCH} pictures a step, this run {self.images_per_step}; "
                f"--trainer.accumulate_grad_batches {max(1, round(PAPER_BATCH / per_batch))} comes nearest.",
                flush=True,
            )

    def as_read(self, trained: dict[str, Tensor]) -> dict[str, Tensor]:
        return self.before.interpolated(trained)

    def configure_optimizers(self) -> Any:
        total = int(self.trainer.estimated_stepping_batches)
        optimizer = adamw(self, self.learning_rate * self.images_per_step / LR_BATCH, self.weight_decay, (0.9, 0.95))
        warmup = int(self.warmup_share * total)

        def factor(step: int) -> float:
            return (step + 1) / warmup if step < warmup else warmup_cosine(step - warmup, 1, total - warmup)

        return with_step_schedule(optimizer, factor)


def _start(student: MAE, encoder_init: str, teacher: DenseTower, interpolation: float) -> None:
    """The encoder's weights before training, where they are not those that it was made with."""
    if encoder_init == "teacher":
        if not isinstance(teacher, CLIP):
            raise UserError(f"encoder_init teacher needs a ViT, which tower '{teacher.name}' is not; set random or mae.")
        student.start_from(teacher)
    elif encoder_init == "random" and interpolation < 1:
        raise UserError(
            f"interpolation {interpolation} mixes the encoder with its start, which encoder_init random makes up; "
            "set encoder_init teacher or mae, or interpolation 1."
        )
