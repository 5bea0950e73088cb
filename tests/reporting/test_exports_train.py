"""``predict --export voc`` as training data: transformers' own SegFormer, through its own image processor, learns from it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from transformers import SegformerConfig, SegformerForSemanticSegmentation, SegformerImageProcessor

import cli
from common.batch import IGNORED
from datamodules import Shapes

TINY = {"hidden_sizes": [8] * 4, "depths": [1] * 4, "num_attention_heads": [1] * 4, "decoder_hidden_size": 16}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    scenes = Shapes().benchmark("test")
    for i in range(3):
        Image.fromarray(scenes[i]["image"].permute(1, 2, 0).numpy()).save(folder / f"{i}.png")
    return folder


def read_voc(folder: Path) -> tuple[list[Image.Image], list[Image.Image]]:
    names = (folder / "ImageSets" / "Segmentation" / "train.txt").read_text().split()
    read = [(folder / "JPEGImages" / f"{n}.jpg", folder / "SegmentationClass" / f"{n}.png") for n in names]
    return [Image.open(picture) for picture, _ in read], [Image.open(mask) for _, mask in read]


SOURCES = {
    "mined": ["configs/freeseg/shapes.yaml", "--model.predicts=mined", "--trainer.precision=32-true"],
    "unsure": ["configs/training_free/sclip.yaml", "--unsure", "0.9"],
}


@pytest.mark.parametrize("source", SOURCES)
def test_segformer_learns_from_it(source: str, pictures: Path, tmp_path: Path) -> None:
    """The masks mined by FreeSeg, and the label map of any method without what is unsure."""
    options = ["--images", str(pictures), "--classes", "shapes12", "--output", str(tmp_path), "--export", "voc"]
    assert cli.main(["predict", "--config", *SOURCES[source], *options]) == 0
    images, masks = read_voc(tmp_path / "exports" / "voc")
    values = set(np.unique(np.concatenate([np.asarray(mask).ravel() for mask in masks])).tolist())
    assert IGNORED in values
    assert len(values) > 3
    assert values <= {*range(1, 13), IGNORED}  # no background was asked for

    processor: Any = SegformerImageProcessor(size={"height": 64, "width": 64}, do_reduce_labels=False)
    batch = processor(images, segmentation_maps=masks, return_tensors="pt")
    assert {IGNORED} < set(batch["labels"].unique().tolist()) <= values
    torch.manual_seed(0)
    network: Any = SegformerForSemanticSegmentation(SegformerConfig(**TINY, num_labels=13))
    optimizer = torch.optim.AdamW(network.parameters(), 1e-2)
    losses = []
    for _ in range(8):
        found = network(**batch)
        found.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(found.loss.item())
    upsampled = F.interpolate(found.logits, (64, 64), mode="bilinear", align_corners=False)
    assert losses[-1] == pytest.approx(F.cross_entropy(upsampled, batch["labels"], ignore_index=IGNORED).item(), rel=1e-5)
    assert losses[-1] < 0.8 * losses[0]
