"""Networks that were trained with masks give what the library's own forward pass gives, word by word."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from common.errors import UserError
from methods import METHODS
from methods.oracles.clipseg import CLIPSeg
from methods.oracles.sam3 import SAM3

WORDS = ["cat", "a red car", "potted plant", "sky"]


def square(model: CLIPSeg | SAM3, image: Tensor) -> Tensor:
    """As the library's processors make it: resized with antialiasing, then normalised."""
    pixels = F.interpolate(image[None], (model.side, model.side), mode="bilinear", antialias=True, align_corners=False)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (model.mean, model.std))
    return (pixels - mean) / std


def asked(model: CLIPSeg | SAM3, word: str) -> tuple[Tensor, Tensor]:
    """Pieces (1, T) and where they are no padding, as CLIPTokenizer says: padded with the end, which is masked."""
    ids = model.tokenizer([word], context_length=model.text_length)
    length = int((ids[0] == 49407).nonzero()[0]) + 1
    ids[:, length:] = 49407
    return ids, (torch.arange(ids.shape[1]) < length)[None].long()


def spread(model: torch.nn.Module) -> None:
    """Weights large enough that words and places differ."""
    torch.manual_seed(1)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)


def by_the_library(model: CLIPSeg | SAM3, image: Tensor, word: str) -> Tensor:
    """What its own forward pass gives for one picture and one word, with transformers' inputs."""
    ids, real = asked(model, word)
    found = model.model(input_ids=ids, attention_mask=real, pixel_values=square(model, image))
    if isinstance(model, CLIPSeg):
        return found.logits.sigmoid()
    likely = found.presence_logits[0].sigmoid() * found.pred_logits[0].sigmoid()
    best = (likely[:, None, None] * found.pred_masks[0].sigmoid()).max(0).values
    return torch.maximum(best, found.semantic_seg[0, 0].sigmoid())


@pytest.mark.parametrize(("name", "least"), [("CLIPSeg", 1e-2), ("SAM3", 1e-3)])
@torch.no_grad()
def test_scores_are_the_librarys_word_by_word(name: str, least: float) -> None:
    model = METHODS[name](protocol="oracle", word_batch=3)
    spread(model.model)
    model.use_vocabulary("; ".join(WORDS))
    images = torch.rand(2, 3, 40, 70)
    ours = model(images)
    for i, image in enumerate(images):
        for q, word in enumerate(WORDS):
            assert torch.allclose(ours[i, q], by_the_library(model, image, word).view_as(ours[i, q]), atol=1e-5)
    assert (ours[0, 0] - ours[0, 1]).abs().max() > least
    if name == "CLIPSeg":
        assert (ours[0, 0] - ours[1, 0]).abs().max() > least


@pytest.mark.parametrize("name", ["CLIPSeg", "SAM3"])
def test_background_is_where_no_word_is_more_likely_than_not(name: str) -> None:
    model = METHODS[name](protocol="oracle")
    model.use_vocabulary("background; cat; a red car")
    scores = torch.tensor([0.4, 0.6]).view(1, 2, 1, 1).repeat(1, 1, 4, 4)
    scores[:, 1, 2:] = 0.3
    model.forward = lambda images: scores
    labels = model.segment(torch.rand(3, 8, 8)).labels
    assert labels[:2].unique().tolist() == [2]
    assert labels[6:].unique().tolist() == [0]


def test_weights_that_cannot_be_had_are_one_line() -> None:
    with pytest.raises(UserError, match="needs a pinned revision"):
        CLIPSeg(weights="hf-hub:CIDAS/clipseg-rd64-refined")
    with pytest.raises(UserError, match="SAM3 '/nowhere' cannot be loaded: "):
        SAM3(weights="/nowhere")
