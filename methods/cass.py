"""CASS (CVPR 2025): a self-supervised ViT's graph in CLIP's attention, and texts turned towards what a picture shows.

The attention is in :mod:`backbones.cass`. What the whole picture looks like to CLIP says which words are likely in it
(the object presence prior, section 3.3): of every group of similar words the likeliest is turned towards the patches most like
it, and the prior joins each patch's scores.

Shapes: M windows of one picture, (h, w) CLIP's patch grid, n = h*w, C joint embedding, Q words, G groups of words.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from scipy.cluster.hierarchy import fcluster, linkage
from torch import Tensor

from backbones.cass import distilled
from backbones.clip import CLIP
from common.errors import UserError
from common.images import IMAGENET
from common.values import Amount, Share
from evaluation.windows import WindowScores, cut
from methods.over_all_windows import OverAllWindows

NEAREST = 2  # patches that a text is turned towards
DINO_STD = (0.229, 0.224, 0.255)  # as released; a slip for ImageNet's .225
RELEASED = {  # MICV-yonsei/CASS@228ecdd: global_semantics_weight, mean_vector_weight, h_threshold
    "voc21": (0.1, 0.03, 0.10),
    "voc20": (0.4, 0.02, 0.10),
    "context60": (0.25, 0.04, 0.09),
    "context59": (0.25, 0.04, 0.09),
    "coco_object": (0.25, 0.01, 0.10),
    "coco_stuff171": (0.2, 0.02, 0.02),
    "cityscapes": (0.1, 0.03, 0.14),
    "ade150": (0.3, 0.05, 0.06),
}
ELSEWHERE = RELEASED["coco_stuff171"]  # INFERRED
PLAIN_SPECTRUM = ("voc20", "cityscapes")  # label spaces that are asked without eigenscaling
PRIOR_OF_WINDOWS = ("cityscapes",)  # and those in which each window has a prior of its own


class CASS(OverAllWindows):
    """See the module; the paper's second tower is facebook/dino-vitb8. It needs as many heads as CLIP has.

    Each number that is not given is the released one for the label space asked, or COCO-Stuff's.

    Args:
        prior_share: share of the object presence prior in the scores.
        patch_share: share of the nearest patches in a text that is turned.
        group_distance: cosine distance below which Ward's clustering joins words to a group.
        options: as of :class:`methods.second_tower.SecondTower`.
    """

    backbone: CLIP
    no_graph = "it pairs the heads of two networks by an assignment that a graph cannot hold."

    def __init__(
        self,
        prior_share: Share | None = None,
        patch_share: Share | None = None,
        group_distance: Amount | None = None,
        **options: Any,
    ) -> None:
        super().__init__(rule="clip", **options)
        self.check_clip()
        self.given = (prior_share, patch_share, group_distance)
        heads = self.backbone.blocks[-1].attn.num_heads
        if self.dino.heads != heads:
            raise UserError(
                f"CASS pairs heads: '{self.backbone.name}' has {heads}, '{self.dino.name}' {self.dino.heads}. "
                "Name a --model.dino with as many."
            )

    @property
    def numbers(self) -> tuple[float, ...]:
        """prior_share, patch_share and group_distance, as given or as released."""
        released = RELEASED.get(self.vocabulary.name, ELSEWHERE)
        return tuple(own if given is None else given for given, own in zip(self.given, released, strict=True))

    def embed_vocabulary(self, words: list[str]) -> None:
        super().embed_vocabulary(words)
        self.groups = groups_of(self.text_QC, self.numbers[2])

    def read(self, windows: Tensor) -> Tensor:
        """Unit dense embeddings (M, C, h, w)."""
        windows = self.backbone.at_least_a_patch(windows)
        layers = self.backbone.layers(windows, self.protocol.windows.position_resize)
        found = distilled(layers, self.keys(windows), self.vocabulary.name not in PLAIN_SPECTRUM)
        return F.normalize(self.backbone.project(found), dim=-1).transpose(1, 2).unflatten(2, layers.grid)

    def keys(self, images: Tensor) -> Tensor:
        """DINO's last keys, (B, C', I, J), of pictures squeezed to squares.

        As released, its pictures are CLIP's input brought back by numbers that are not CLIP's.
        """
        side = min(images.shape[2:])
        mean, std = (torch.tensor(values).view(3, 1, 1).to(images) for values in (IMAGENET[0], DINO_STD))
        colours = (images - self.backbone.mean) / self.backbone.std * std + mean
        square = F.interpolate(colours, (side, side), mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)
        whole = side - side % self.dino.stride or side
        return self.dino(square[:, :, :whole, :whole], "keys")

    def together(self, windows: WindowScores) -> WindowScores:
        prior_share, patch_share, _ = self.numbers
        seen = cut(windows.image, windows.boxes) if self.vocabulary.name in PRIOR_OF_WINDOWS else windows.image[None]
        prior = (self.whole(seen) @ self.text_QC.T).expand(len(windows.scores), -1)
        text = turned(self.text_QC, self.groups, prior, windows.scores.flatten(2), patch_share)
        alike = torch.einsum("mchw,mqc->mqhw", windows.scores, text)
        return replace(windows, scores=(1 - prior_share) * alike + prior_share * prior[..., None, None])

    def whole(self, images: Tensor) -> Tensor:
        """CLIP's own embeddings (B, C) of pictures at their size."""
        return self.backbone.pool(self.backbone.encode(images, self.protocol.windows.position_resize)[0])


def groups_of(text: Tensor, distance: float) -> list[Tensor]:
    """The words of each group, by Ward's clustering of unit texts (Q, C), cut at a cosine distance."""
    if len(text) == 1:
        return [torch.zeros(1, dtype=torch.int64, device=text.device)]
    rows, columns = torch.triu_indices(len(text), len(text), 1, device=text.device)
    apart = (1 - (text.double() @ text.double().T)[rows, columns]).clamp(0, 2)
    number = torch.from_numpy(fcluster(linkage(apart.cpu().numpy(), "ward"), distance, "distance")).to(text.device)
    return [(number == one).nonzero()[:, 0] for one in number.unique()]


def turned(text: Tensor, groups: list[Tensor], prior: Tensor, patches: Tensor, share: float) -> Tensor:
    """Texts of each window, (M, Q, C): of every group the likeliest word's is turned towards the two patches nearest to it.

    Args:
        text: unit texts (Q, C).
        groups: their groups.
        prior: how likely each word is in the picture, (M, Q).
        patches: unit embeddings (M, C, n).
        share: how far.
    """
    likely = torch.stack([words[prior[:, words].argmax(1)] for words in groups], 1)
    near = (text[likely] @ patches).topk(min(NEAREST, patches.shape[2])).indices  # (M, G, 2)
    mean = F.normalize(torch.stack([one.T[index].mean(1) for one, index in zip(patches, near, strict=True)]), dim=-1)
    found = F.normalize((1 - share) * text[likely] + share * mean, dim=-1)
    return text.repeat(len(patches), 1, 1).scatter(1, likely[..., None].expand_as(found), found)
