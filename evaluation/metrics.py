"""The metric: one int64 confusion matrix per evaluation, and what each picture added to it.

Dataset mIoU is the nan-mean over classes of I / (P + G - I), summed over all pictures first (mmsegmentation's rule).
It is never a mean of per-picture IoUs, and a class that occurs in neither map does not count.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from common.errors import UserError
from evaluation.boundary import boundary_areas, small_areas

NO_IMAGE = -1


class ConfusionMatrix(Metric):
    """Counts pixels by (target, prediction), exactly, on any number of processes.

    Args:
        num_classes: K; train ids are 0..K-1.
        ignore_index: target value that is not counted.

    ``compute()`` gives ``miou``, ``iou`` (K,), ``pixel_accuracy``, ``frequency_weighted_iou``, ``boundary_miou`` and
    ``small_miou`` (:mod:`evaluation.boundary`; all are fractions, float64; nan where undefined), ``matrix`` (K, K) int64, and
    per picture ``areas`` (N, 3, K) int64 of intersection, predicted and target pixels, ordered by ``pictures`` (N,).
    """

    full_state_update = False
    matrix: Tensor
    boundary: Tensor
    areas: list[Tensor]
    pictures: list[Tensor]

    def __init__(self, num_classes: int, ignore_index: int = 255) -> None:
        super().__init__(dist_sync_on_step=False)
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.add_state("matrix", torch.zeros(num_classes, num_classes, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("boundary", torch.zeros(3, num_classes, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("areas", [], dist_reduce_fx="cat")
        self.add_state("pictures", [], dist_reduce_fx="cat")

    def update(self, prediction: Tensor, target: Tensor, picture: int | None = None) -> None:
        """Adds one picture (H, W), or a batch (B, H, W), of integer maps.

        Args:
            prediction: train ids 0..K-1.
            target: train ids 0..K-1, or ``ignore_index``.
            picture: the picture's position in the dataset, so that two methods can be paired; counted on if None. With
                ``NO_IMAGE`` it is left out of the per-picture results, so that a process without pictures of its own
                still has something to gather.

        Raises:
            UserError: shapes differ, or a value is outside the label space or no whole number.
        """
        if prediction.shape != target.shape:
            raise UserError(f"prediction {tuple(prediction.shape)} and mask {tuple(target.shape)} differ in size.")
        if prediction.ndim == 3:
            for one_prediction, one_target in zip(prediction, target, strict=True):
                self.update(one_prediction, one_target)
            return
        counts = confusion(prediction, target, self.num_classes, self.ignore_index)
        self.matrix += counts
        self.boundary += boundary_areas(prediction, target, self.num_classes, self.ignore_index)
        self.areas.append(areas_of(counts)[None])
        number = len(self.pictures) if picture is None else picture
        self.pictures.append(torch.tensor([number], device=counts.device))

    def compute(self) -> dict[str, Tensor]:
        """See the class. An evaluation without pictures gives nan."""
        areas = torch.zeros(0, 3, self.num_classes, dtype=torch.int64)
        pictures = torch.zeros(0, dtype=torch.int64)
        if len(self.areas):
            areas, pictures = dim_zero_cat(self.areas), dim_zero_cat(self.pictures)
            order = torch.argsort(pictures, stable=True)
            order = order[pictures[order] != NO_IMAGE]
            areas, pictures = areas[order], pictures[order]
        totals = areas_of(self.matrix)
        iou = iou_of(totals)
        share = totals[2].double() / totals[2].sum()
        return {
            "miou": iou.nanmean(),
            "iou": iou,
            "pixel_accuracy": totals[0].sum().double() / totals[2].sum(),
            "frequency_weighted_iou": torch.where(share > 0, share * iou, 0).sum(),
            "boundary_miou": iou_of(self.boundary).nanmean(),
            "small_miou": iou_of(small_areas(areas).sum(0)).nanmean(),
            "matrix": self.matrix,
            "areas": areas,
            "pictures": pictures,
        }

    def result(self) -> dict[str, Tensor]:
        """:meth:`compute`, with the shapes that torchmetrics drops where a tensor has a single element."""
        result = self.compute()
        shapes = {"iou": (-1,), "pictures": (-1,), "matrix": (self.num_classes, self.num_classes)}
        return result | {key: result[key].reshape(shape) for key, shape in shapes.items()}


def confusion(prediction: Tensor, target: Tensor, num_classes: int, ignore_index: int = 255) -> Tensor:
    """(K, K) int64 pixel counts, rows = target; one bincount over a flat code, ignored pixels in a bin of their own.

    Raises:
        UserError: a value is outside the label space, or no whole number.
    """
    ignored = target == ignore_index
    kept = target.masked_fill(ignored, 0)
    for what, values in ("mask", kept), ("predicted", prediction):
        _check_ids(what, values, num_classes)
    last = num_classes * num_classes
    small = last + num_classes < 2**15  # int16 codes move a quarter of the memory
    code_type = torch.int16 if small else torch.int32
    code = kept.to(code_type).mul_(num_classes).add_(prediction).masked_fill_(ignored, last)
    counts = torch.bincount(code.flatten(), minlength=last + 1)
    return counts[:-1].view(num_classes, num_classes)


def _check_ids(what: str, values: Tensor, num_classes: int) -> None:
    """Negative ids would be counted as other classes'."""
    if values.is_floating_point():
        raise UserError(f"{what} values are {values.dtype}; they must be whole train ids.")
    if values.numel():
        low, high = (int(value) for value in values.aminmax())
        if low < 0 or high >= num_classes:
            raise UserError(f"{what} value {low if low < 0 else high} is outside the {num_classes} classes.")


def areas_of(matrix: Tensor) -> Tensor:
    """Intersection, predicted and target pixels (3, K) of each class, from (K, K) counts, rows = target."""
    return torch.stack([matrix.diagonal(), matrix.sum(0), matrix.sum(1)])


def iou_of(totals: Tensor) -> Tensor:
    """IoU (..., K) float64 of (..., 3, K) intersection, predicted and target areas; nan for absent classes."""
    intersection, predicted, actual = totals.double().unbind(-2)
    return intersection / (predicted + actual - intersection)
