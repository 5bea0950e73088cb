"""A preset is what the authors released: every number and every word of it, and the path from scores to labels.

``released.json`` was written from the released configurations and class files themselves (SCLIP@b56bd30, NACLIP@0cac3a6,
ClearCLIP@ad68a40, SC-CLIP@0417ba9, ResCLIP@0e085f7, CASS@228ecdd, CorrCLIP@103bc18, FLOSS@ccf1d49 (on NACLIP),
GroupViT@13b7861, TCL@bc2b551, SegCLIP@df09ba2, ifseg@77c075c), not from our own:
``sha256`` is the start of the digest of the JSON list of each class's words, in the released order, each stripped of blanks
around it; classes that are never asked have an empty list.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from evaluation import Protocol, Vocabulary
from evaluation.protocol_in_words import in_words
from evaluation.refine import Pamr
from evaluation.windows import resize_image, window_boxes
from methods import TrainingFree

RELEASED: dict[str, dict[str, dict[str, Any]]] = json.loads(Path(__file__).with_name("released.json").read_text())
PAIRS = [(preset, benchmark) for preset, benchmarks in RELEASED.items() for benchmark in benchmarks]
KNOWN = set(Vocabulary.known_names())


@pytest.mark.parametrize(("preset", "benchmark"), PAIRS)
def test_the_words_are_the_released_ones(preset: str, benchmark: str) -> None:
    if benchmark not in KNOWN:
        pytest.skip(f"no vocabulary {benchmark}")
    protocol, released = Protocol.preset(preset, benchmark), RELEASED[preset][benchmark]
    vocabulary = Vocabulary.load(benchmark, protocol.prompt.wording)
    if vocabulary.background is None:
        protocol = protocol.without_background()
    words, classes = vocabulary.words_and_classes(protocol.decision.background in ("words", "none"))
    asked = [[word for word, k in zip(words, classes, strict=True) if k == row] for row in range(vocabulary.num_classes)]
    assert (len(asked), len(words)) == (released["classes"], released["words"])
    assert hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:16] == released["sha256"]


@pytest.mark.parametrize(("preset", "benchmark"), [pair for pair in PAIRS if pair[0] != "ifseg"])
def test_the_numbers_are_the_released_ones(preset: str, benchmark: str) -> None:
    protocol, released = Protocol.preset(preset, benchmark), RELEASED[preset][benchmark]
    windows, decision = protocol.windows, protocol.decision
    assert (windows.short_side, windows.max_long_side) == (released["short_side"], released["max_long_side"])
    assert windows.crop == released["crop"]
    if windows.crop:
        assert windows.stride == released["stride"]
    if "temperature" in released:
        assert decision.temperature == released["temperature"]
        assert decision.area_threshold == released["area_threshold"]
        iterations = decision.pamr_iterations if decision.refine == "pamr" else 0
        assert (iterations, decision.pamr_dilations) == (released["pamr_iterations"], (8, 16))
    threshold = decision.background_value if decision.background != "none" else 0
    assert threshold == (released["threshold"] or 0)


def test_the_authors_own_figures_stand_beside_their_presets() -> None:
    for preset, benchmark, figure in (
        ("sclip", "voc21", 59.63),
        ("naclip", "coco_object", 36.19),
        ("clearclip", "voc20", 80.9),
    ):
        assert f"report {figure:.2f} for their own method" in " ".join(in_words(Protocol.preset(preset, benchmark)))
        changed = Protocol.preset(preset, benchmark, short_side=300)
        assert "report" not in " ".join(in_words(changed))  # other rules, no figure of theirs
    assert "30 % of the mask come from a frozen CLIP there" in " ".join(in_words(Protocol.preset("tcl", "voc21")))


def bilinear(maps: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(maps[None], size, mode="bilinear", align_corners=False)[0]


@torch.no_grad()
def test_naclips_whole_picture_path() -> None:
    """Sides that are no multiple of the patch lose their rest; grid -> resized -> original; PAMR there; then scale, softmax."""
    model = TrainingFree("naclip", protocol="naclip", protocol_values={"short_side": 60, "templates": "plain"})
    model.use_vocabulary("voc20")
    image = torch.rand(3, 75, 110)
    windows = model.protocol.windows
    assert (windows.crop, windows.upsampling) == (None, "twice")
    resized = resize_image(image, windows)
    assert resized.shape[1:] == (60, 88)  # 7.5 and 11 patches of 8
    seen = resized[None, :, :56, :88]
    dense = model.backbone.dense(seen, "naclip", "scaled_bicubic")[0]
    assert dense.shape[1:] == (7, 11)
    cosines = torch.einsum("chw,qc->qhw", dense, model.text_QC)
    at_original = bilinear(bilinear(cosines, (60, 88)), (75, 110))
    refined = Pamr(bilinear(resized, (75, 110)), (8, 16), 10)(at_original)
    probability = (40 * refined).softmax(0)
    expected = model.class_of_word[probability.argmax(0)]
    found = model.segment(image, with_score=True)
    torch.testing.assert_close(found.score, probability.amax(0), atol=1e-4, rtol=1e-3)
    assert (found.labels == expected).float().mean() > 0.999


@torch.no_grad()
def test_tcls_masks_are_sigmoids_of_each_window() -> None:
    """sigmoid(10 cos - 2.5) in each window, then the average; background is a constant channel of .5 in front."""
    model = TrainingFree("clip", protocol="tcl", protocol_values={"short_side": 64, "crop": 48, "stride": 24})
    model.use_vocabulary("voc21")
    image = torch.rand(3, 70, 90)
    resized = resize_image(image, model.protocol.windows)
    size = (resized.shape[1], resized.shape[2])
    total, visits = torch.zeros(20, *size), torch.zeros(size)
    for top, left, bottom, right in window_boxes(*size, model.protocol.windows):
        mask = (10 * model(resized[None, :, top:bottom, left:right])[0] - 2.5).sigmoid()
        total[:, top:bottom, left:right] += bilinear(mask, (bottom - top, right - left))
        visits[top:bottom, left:right] += 1
    average = bilinear(total / visits, (70, 90))
    channels = torch.cat([torch.full((1, 70, 90), 0.5), average])
    expected = channels.argmax(0)
    found = model.segment(image).labels
    assert (found.long() == expected).float().mean() > 0.999
    assert 0.02 < (expected == 0).float().mean() < 1  # without the bias, cosines above 0 never leave anything to it
    assert ((10 * model(resized[None])).sigmoid().amax(1) > 0.5).float().mean() > 0.95
