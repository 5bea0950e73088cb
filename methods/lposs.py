"""LPOSS and LPOSS+ (CVPR 2025): what CLIP says of patches spreads among those that a frozen DINO finds alike.

All windows of a picture are one graph: a patch is joined to those most alike by DINO's values, the more the nearer they
lie. A word's scores y become the solution z of (I - alpha W) z = y, label propagation. LPOSS+ does the same once more
among neighbouring pixels of like colour.

Shapes: M windows of one picture, (h, w) DINO's grid of each, N = M*h*w, Q words, C width, (R, S) the resized picture.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from evaluation.windows import WindowScores, cut, overlaid
from methods.over_all_windows import OverAllWindows

ALPHA, STEPS, TOLERANCE = 0.95, 10, 1e-6  # of the propagation; after ten steps it is stopped, solved or not
NEIGHBOURS, GAMMA, SIGMA = 400, 3, 0.01  # of a patch; sharpness of likeness; how it fades, per pixel of distance
XYZ = torch.tensor([[0.412453, 0.357580, 0.180423], [0.212671, 0.715160, 0.072169], [0.019334, 0.119193, 0.950227]])
WHITE = torch.tensor([0.95047, 1.0, 1.08883])
REACH, TAU = 6, 0.01  # pixels each way; of colours


class LPOSS(OverAllWindows):
    """See the module; the paper's second tower is DINO ViT-B/16.

    Args:
        pixels: whether scores also spread among pixels (LPOSS+).
        options: as of :class:`methods.second_tower.SecondTower`.
    """

    def __init__(self, pixels: bool = False, **options: Any) -> None:
        super().__init__(rule="maskclip", **options)
        self.pixels = pixels

    def read(self, images: Tensor) -> Tensor:
        """CLIP's cosines and DINO's unit values of windows, (M, Q + C, h, w)."""
        values = F.normalize(self.dino(images, "values"), dim=1)
        dense = F.interpolate(self.dense(images), values.shape[2:], mode="bilinear", align_corners=False)
        return torch.cat([torch.einsum("bchw,qc->bqhw", F.normalize(dense, dim=1), self.text_QC), values], 1)

    def together(self, windows: WindowScores) -> WindowScores:
        """A picture's windows as read, with the scores (M, Q, h, w) that their graph gives them."""
        scores, values = windows.scores.split([len(self.text_QC), windows.scores.shape[1] - len(self.text_QC)], 1)
        places = centres(windows, self.dino.stride)
        graph = patch_graph(values.permute(0, 2, 3, 1).flatten(0, 2), places)
        found = propagated(graph, scores.permute(0, 2, 3, 1).flatten(0, 2))
        found = found.unflatten(0, (len(scores), *scores.shape[2:])).permute(0, 3, 1, 2)
        return replace(windows, scores=self.spread_among_pixels(found, windows) if self.pixels else found)

    def spread_among_pixels(self, scores: Tensor, windows: WindowScores) -> Tensor:
        """The merged scores of the picture spread among its pixels, (M, Q, rows, columns): each window's part of them."""
        top, left, bottom, right = windows.boxes[0]
        large = F.interpolate(scores, (bottom - top, right - left), mode="bilinear", align_corners=False)
        merged = overlaid(large, windows.boxes, windows.size)
        found = propagated(pixel_graph(windows.image), merged.flatten(1).T).T.unflatten(1, windows.size)
        return cut(found, windows.boxes)


def centres(windows: WindowScores, stride: int) -> Tensor:
    """(N, 2) rows and columns of the patches' centres in the resized picture, window by window."""
    rows, columns = (torch.arange(side) * stride + stride // 2 for side in windows.scores.shape[2:])
    grid = torch.stack(torch.meshgrid(rows, columns, indexing="ij"), -1).flatten(0, 1)
    corners = torch.tensor([[top, left] for top, left, _, _ in windows.boxes])
    return (corners[:, None] + grid).flatten(0, 1).float().to(windows.scores.device)


def patch_graph(values: Tensor, places: Tensor) -> Tensor:
    """W (N, N), sparse, of unit values (N, C) and places (N, 2): likeness^3 exp(-distance / 100) to the 400 most alike."""
    alike, index = (values @ values.T).topk(min(NEIGHBOURS, len(values)))
    distance = (places[:, None] - places[index]).norm(dim=-1)
    weight = alike.clamp_min(0) ** GAMMA * torch.exp(-SIGMA * distance)
    rows = torch.arange(len(values), device=values.device)[:, None].expand_as(index)
    pairs = torch.stack([rows.flatten(), index.flatten()])
    return normalised(torch.cat([pairs, pairs.flip(0)], 1), weight.flatten().repeat(2), len(values))


def pixel_graph(image: Tensor) -> Tensor:
    """W (R*S, R*S), sparse, of a picture (3, R, S) in [0, 1]: exp(-colour difference / 0.01) in squares of 13 x 13."""
    colour = (lab(image) / torch.tensor([100.0, 128.0, 128.0], device=image.device)[:, None, None]).flatten(1).T
    height, width = image.shape[1:]
    number = torch.arange(height * width, device=image.device).view(height, width)
    pairs = []
    for down in range(REACH + 1):
        for right in range(-REACH if down else 1, REACH + 1):  # half of the square; the other half is its mirror
            if down < height and abs(right) < width:
                a, b = number[: height - down], number[down:]
                a, b = (a[:, : width - right], b[:, right:]) if right >= 0 else (a[:, -right:], b[:, :right])
                pairs.append(torch.stack([a.flatten(), b.flatten()]))
    half = torch.cat(pairs, 1) if pairs else number.new_zeros(2, 0)
    weight = torch.exp(-(colour[half[0]] - colour[half[1]]).norm(dim=1) / TAU)
    return normalised(torch.cat([half, half.flip(0)], 1), weight.repeat(2), height * width)


def lab(image: Tensor) -> Tensor:
    """CIELAB (3, R, S) of sRGB in [0, 1], white D65."""
    linear = torch.where(image > 0.04045, ((image + 0.055) / 1.055) ** 2.4, image / 12.92)
    ratio = torch.einsum("ij,jrs->irs", XYZ.to(image), linear) / WHITE.to(image)[:, None, None]
    x, y, z = torch.where(ratio > 0.008856, ratio.clamp_min(0.008856) ** (1 / 3), 7.787 * ratio + 4 / 29)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def normalised(pairs: Tensor, weight: Tensor, count: int) -> Tensor:
    """D^-1/2 W D^-1/2, sparse (count, count), of edges (2, E) and their weights (E,); loops are left out, doubles add up."""
    weight = weight * (pairs[0] != pairs[1])
    degree = torch.zeros(count, device=weight.device).index_add_(0, pairs[0], weight)
    scale = torch.where(degree > 0, degree, 1).rsqrt()
    weight = weight * scale[pairs[0]] * scale[pairs[1]]
    return torch.sparse_coo_tensor(pairs, weight, (count, count), check_invariants=False).coalesce()


def propagated(graph: Tensor, scores: Tensor) -> Tensor:
    """z (N, Q) of scores y (N, Q) after at most ten steps of conjugate gradients for (I - alpha W) z = y, from 0.

    As in the released code the tenth step's result is the answer; a word is left alone once its residual is 1e-6 of y.
    """
    z, residual = torch.zeros_like(scores), scores.clone()
    direction, square = residual.clone(), residual.square().sum(0)
    enough = TOLERANCE**2 * square
    for _ in range(STEPS):
        goes_on = square > enough
        image = direction - ALPHA * (graph @ direction)
        step = torch.where(goes_on, square / (direction * image).sum(0), 0).nan_to_num()
        z, residual = z + step * direction, residual - step * image
        before, square = square, residual.square().sum(0)
        direction = residual + (square / before).nan_to_num() * direction
    return z
