"""Windowed evaluation with ViT-B/16 (random weights): all windows in one batch against one at a time.

SCLIP's protocol on a VOC-sized picture (224 windows, stride 112). The rival is the published evaluators' way: a
loop over windows at batch 1, each padded to full size and added, then everything upsampled before the argmax. Time on a
CPU is bound by the transformer's arithmetic, which both do alike, so the forward alone is shown too.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.timing import Ratio, paired
from evaluation import Protocol, Vocabulary
from evaluation.windows import resize_image, window_boxes
from methods import METHODS

SIZES = [(375, 500)]


def run() -> Iterator[Ratio]:
    model = METHODS["TrainingFree"]("sclip", clip="ViT-B-16", pretrained=None, protocol="sclip", window_batch=6)
    text = F.normalize(torch.randn(171, 512), dim=-1)  # 13,680 prompts would take the CPU half an hour, and are cached
    model.backbone.embed_text = lambda *_: text
    model.use_vocabulary(Vocabulary.load("coco_stuff171"), Protocol.preset("sclip", "voc20"))
    pictures = [torch.rand(3, *size) for size in SIZES]

    @torch.inference_mode()
    def one_window_at_a_time() -> list[Tensor]:
        labels = []
        for picture in pictures:
            resized = resize_image(picture, model.protocol.windows)
            height, width = resized.shape[1:]
            total, visits = torch.zeros(1, 171, height, width), torch.zeros(1, 1, height, width)
            for top, left, bottom, right in window_boxes(height, width, model.protocol.windows):
                scores = model(resized[None, :, top:bottom, left:right])
                scores = F.interpolate(scores, (bottom - top, right - left), mode="bilinear", align_corners=False)
                padding = (left, width - right, top, height - bottom)
                total = total + F.pad(scores, padding)
                visits = visits + F.pad(torch.ones_like(scores[:, :1]), padding)
            logits = F.interpolate(total / visits, picture.shape[1:], mode="bilinear", align_corners=False)
            labels.append((logits * model.protocol.decision.temperature).softmax(1).argmax(1)[0])
        return labels

    for ours, rival in zip(model.segment(pictures), one_window_at_a_time(), strict=True):
        assert (ours.labels != rival).float().mean() < 1e-3
    yield paired(
        "a picture, 171 classes, against one window at a time", lambda: model.segment(pictures), one_window_at_a_time, runs=3
    )
    crops = torch.rand(6, 3, 224, 224)

    @torch.inference_mode()
    def forward_together() -> Tensor:
        return model(crops)

    @torch.inference_mode()
    def forward_one_by_one() -> list[Tensor]:
        return [model(crop[None]) for crop in crops]

    yield paired("the same windows, forward alone", forward_together, forward_one_by_one, runs=3)
