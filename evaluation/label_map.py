"""From window scores to a label map, a chunk of words at a time.

Upsampling all Q words to full resolution takes Q times the image (200 MB for 171 words at 480x640); a running
maximum over chunks gives the same labels with a tenth of that. Softmax is monotone, so its normaliser is carried along
(a running log-sum-exp) only where a probability is asked for.

Shapes: Q words, q words of a chunk, K classes, (R, S) the resized image, (H, W) the original size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from evaluation.refine import Pamr
from evaluation.rules import Decision
from evaluation.windows import WindowScores

Scores = Literal["cosine", "logit", "probability"]


@dataclass  # not frozen: Lightning moves the fields of what predict_step returns
class LabelMap:
    """``labels`` (H, W) uint8 train ids; ``score`` (H, W) their probabilities, or None if not asked for.

    The probability is that of the best word; of what is background because no word reaches a threshold, that it is not that
    word (1 - p): where a threshold decides, a clear background is surer than one in doubt.

    ``segments`` (H, W), where a method has segment tokens: which of them a pixel belongs to.
    """

    labels: Tensor
    score: Tensor | None
    segments: Tensor | None = None


def label_map(
    windows: WindowScores,
    class_of_word: Tensor,
    size: tuple[int, int],
    decision: Decision,
    background: int | None = None,
    scores: Scores = "cosine",
    with_score: bool = False,
    chunk: int = 8,
) -> LabelMap:
    """Merges, upsamples and decides.

    Args:
        windows: scores of one image.
        class_of_word: (Q,) train id of each word.
        size: original (H, W), where the decision is made.
        decision: background rule, refinement.
        background: train id of the background class, None if the label space has none.
        scores: "cosine" are multiplied with the protocol's temperature, "logit" taken as they are; both go through a softmax
            where a probability is asked for. "probability" is one already.
        with_score: also return the best probability.
        chunk: words upsampled at once; does not change the result.
    """
    scale = decision.temperature if scores == "cosine" else 1.0
    by_threshold = background is not None and decision.background in ("words", "constant")
    threshold = decision.background_value if by_threshold else 0.0
    needs_score = with_score or threshold > 0
    refine = None
    if decision.refine == "pamr":
        image = F.interpolate(windows.image[None], size, mode="bilinear", align_corners=False)[0]
        refine = Pamr(image, decision.pamr_dilations, decision.pamr_iterations)

    def upsampled(words: slice) -> Tensor:
        merged = windows.merge(words, size)
        return (merged if refine is None else refine(merged)).mul_(scale)

    total = windows.scores.shape[1]
    normaliser = needs_score and scores != "probability"
    best, word, log_sum = _running_best(upsampled, range(total), chunk, normaliser)
    labels = class_of_word.to(word.device)[word]
    if decision.area_threshold and background is not None:
        kept = _large_enough(labels, class_of_word, background, decision.area_threshold)
        if kept:
            best, word, _ = _running_best(upsampled, kept, chunk, False)
        labels = class_of_word.to(word.device)[word] if kept else torch.full_like(labels, background)
    score = None
    if needs_score:
        score = best if log_sum is None else torch.exp(best - log_sum)
        if background is not None and threshold > 0:
            below = score < threshold
            labels, score = torch.where(below, background, labels), torch.where(below, 1 - score, score)
    return LabelMap(labels.to(torch.uint8), score)


def _running_best(
    upsampled: Callable[[slice], Tensor], words: range | list[int], chunk: int, normaliser: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Best score, its word and (if asked) the log-sum-exp per pixel, over the listed words."""
    best = word = log_sum = None
    for run in _runs(words, chunk):
        scores_qHW = upsampled(run)
        value, index = scores_qHW.max(0)
        index = index.to(torch.int32).add_(run.start)  # onnxruntime's Where knows no shorter type that holds all words
        if normaliser:
            part = scores_qHW.sub_(value).exp_().sum(0).log_().add_(value)  # log-sum-exp, of the maximum that is at hand
            log_sum = part if log_sum is None else torch.logaddexp(log_sum, part)
        del scores_qHW  # before the next chunk is made
        if best is None or word is None:
            best, word = value, index
        else:
            better = value > best  # strict: of equal scores the first word wins, as in argmax
            torch.where(better, value, best, out=best)
            torch.where(better, index, word, out=word)
    if best is None or word is None:
        raise ValueError("no word to choose from")
    return best, word.long(), log_sum


def _runs(words: range | list[int], chunk: int) -> list[slice]:
    """Consecutive words in slices of at most ``chunk``."""
    runs: list[slice] = []
    for w in words:
        if runs and runs[-1].stop == w and w - runs[-1].start < chunk:
            runs[-1] = slice(runs[-1].start, w + 1)
        else:
            runs.append(slice(w, w + 1))
    return runs


def _large_enough(labels: Tensor, class_of_word: Tensor, background: int, share: float) -> list[int]:
    """Words of the background and of the classes that cover more than ``share`` of the predicted foreground."""
    counts = torch.bincount(labels.flatten(), minlength=int(class_of_word.max()) + 1)
    foreground = counts.sum() - counts[background]
    keep = counts > share * foreground
    keep[background] = True
    return [i for i, k in enumerate(class_of_word.tolist()) if keep[k]]


def majority_labels(part: Tensor, mask: Tensor, classes: int) -> Tensor:
    """(H, W) uint8: each part's most frequent label, the least of several; ``mask`` may hold 255 where nothing is known."""
    known = mask < classes
    counts = torch.bincount(part[known] * classes + mask[known].long(), minlength=(int(part.max()) + 1) * classes)
    return counts.view(-1, classes).argmax(1)[part].to(torch.uint8)
