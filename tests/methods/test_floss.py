"""FLOSS: templates by entropy, experts that claim pixels, and the plain data in its checkpoints."""

from pathlib import Path
from typing import Any

import lightning
import pytest
import torch

from common.errors import UserError
from datamodules import DATAMODULES
from methods import METHODS
from methods.floss import entropy_of_classes, fused
from tests.conftest import QUIET


def test_a_pixel_goes_to_the_surest_expert_that_finds_its_own_word() -> None:
    default = torch.tensor([0.2, 0.3, 0.5])[:, None].repeat(1, 4)[None, :, None]
    first = torch.tensor([[0.6, 0.1, 0.6, 0.5], [0.3, 0.7, 0.3, 0.5], [0.1, 0.2, 0.1, 0.0]])[None, :, None]
    second = torch.tensor([[0.2, 0.5, 0.1, 0.3], [0.1, 0.3, 0.8, 0.6], [0.7, 0.2, 0.1, 0.1]])[None, :, None]
    found = fused(default, [(0, first), (1, second)])[0, :, 0].T
    assert torch.equal(found[0], first[0, :, 0, 0])  # the first alone finds its word
    assert torch.equal(found[1], default[0, :, 0, 1])  # neither: one finds word 1, the other word 0
    assert torch.equal(found[2], second[0, :, 0, 2])  # both, the second surer
    assert torch.equal(found[3], second[0, :, 0, 3])


def test_entropy_is_of_the_best_synonyms_and_not_divided_by_their_sum() -> None:
    probability = torch.tensor([0.5, 0.2, 0.3])[:, None, None]
    entropy, label = entropy_of_classes(probability, torch.tensor([0, 1, 1]), 2)
    assert label.item() == 0
    expected = -(torch.tensor([0.5, 0.3]) * torch.tensor([0.5, 0.3]).log()).sum()
    torch.testing.assert_close(entropy[0, 0], expected)


def fitted(**options: Any) -> Any:
    model = METHODS["FLOSS"](candidates="tcl_custom", **options)
    data = DATAMODULES["Shapes"]("shapes16", train="pictures", train_pictures=8, train_batch_size=4, pictures=2, num_workers=0)
    lightning.Trainer(max_epochs=1, **QUIET).fit(model, data)
    return model


def test_a_fit_ranks_templates_by_their_own_label_maps() -> None:
    """Template by template, the sums are those of a dense CLIP asked in that template alone, through ``segment``."""
    model = fitted(experts=2)
    assert model.pixels.sum(1).tolist() == [8 * 64 * 64] * len(model.candidates)
    data = DATAMODULES["Shapes"]("shapes16", train="pictures", train_pictures=8)
    images = [data.train_dataloader().dataset[0, i]["image"].float() / 255 for i in range(8)]
    plain = METHODS["TrainingFree"]("naclip")
    plain.use_vocabulary("shapes16")
    plain.text_QC = model.template_texts[3]
    counts = sum(torch.bincount(one.labels.long().flatten(), minlength=16) for one in plain.segment(images))
    assert (counts - model.pixels[3]).abs().max() < 20  # rounding of ties
    for k, words in enumerate(model.ranked):
        means = model.entropies[:, k] / model.pixels[:, k]
        seen = [t for t in means.argsort().tolist() if model.pixels[t, k] > 0]
        assert model.chosen().get(words[0], []) == seen[:2]


def test_experts_act_and_travel_in_checkpoints_as_plain_data(tmp_path: Path) -> None:
    model, image = fitted(), torch.rand(3, 64, 64)
    found = model.segment(image, with_score=True).score
    model.trainer.save_checkpoint(tmp_path / "floss.ckpt")
    kept = torch.load(tmp_path / "floss.ckpt", weights_only=True)["floss"]
    assert kept["experts"]
    assert all(set(templates) <= set(model.candidates) for templates in kept["experts"].values())
    again = METHODS["FLOSS"].load_from_checkpoint(tmp_path / "floss.ckpt", weights_only=True)
    again.use_vocabulary("shapes16")
    torch.testing.assert_close(again.segment(image, with_score=True).score, found)
    plain = METHODS["TrainingFree"]("naclip")
    plain.use_vocabulary("shapes16")
    assert not torch.allclose(plain.segment(image, with_score=True).score, found, atol=1e-3)
    again.use_vocabulary("cat; dog")  # words that the fit did not know
    assert again.expert_texts() == {}
    with pytest.raises(UserError, match="did not rank these templates"):
        METHODS["FLOSS"].load_from_checkpoint(tmp_path / "floss.ckpt", weights_only=True, candidates="simple")
