"""``predict --smooth``: what does not change stays, what flickers is outvoted, what comes to stay wins."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import cli
from datamodules import Shapes
from evaluation import LabelMap
from reporting.smoothing import Votes
from tests.commands.test_cli import fails

SCLIP = ["--config", "configs/training_free/sclip.yaml", "--trainer.accelerator=cpu"]


def frame(label: int, score: float | None = 0.5) -> LabelMap:
    labels = torch.full((2, 3), label, dtype=torch.uint8)
    return LabelMap(labels, None if score is None else torch.full((2, 3), score))


def through(memory: float, frames: list[LabelMap]) -> list[int]:
    votes = Votes(memory, 4)
    return [int(votes.add(one).labels[0, 0]) for one in frames]


def test_a_frame_that_flickers_is_outvoted_and_one_that_stays_wins() -> None:
    assert through(0.6, [frame(k) for k in (1, 1, 2, 1, 1)]) == [1, 1, 1, 1, 1]
    assert through(0.0, [frame(k) for k in (1, 1, 2, 1, 1)]) == [1, 1, 2, 1, 1]
    # 0.8 ** t < 1 / 2 from the fourth frame of the new class on
    assert through(0.8, [frame(k) for k in (1, 3, 3, 3, 3, 3)]) == [1, 1, 1, 1, 3, 3]
    assert through(0.6, [frame(1, 0.2), frame(2, 0.9)]) == [1, 2]  # it is surer: 0.4 * 0.9 > 0.6 * 0.2


def test_what_is_constant_stays_with_its_scores() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 5, (7, 9), generator=generator).to(torch.uint8)
    labels[labels == 4] = 255
    score = torch.rand((7, 9), generator=generator).clamp(0.01)
    votes = Votes(0.9, 4)
    for _ in range(20):
        found = votes.add(LabelMap(labels, score))
        assert torch.equal(found.labels, labels)
        assert torch.allclose(found.score[labels < 255], score[labels < 255])
    assert Votes(0.9, 4).add(frame(2, None)).score is None
    assert votes.add(frame(3)).labels.unique().tolist() == [3]  # another size: anew


def test_predict_smooths_frames_in_the_order_of_their_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A scene, once mirrored: without, the map goes to and fro; with it, it stays where the mirrored one is not much surer."""
    scene = Shapes(pictures=1).benchmark("test")[0]["image"].permute(1, 2, 0).numpy()
    pixels = [scene, scene[:, ::-1]]
    frames = tmp_path / "frames"
    frames.mkdir()
    for number, i in enumerate([0, 0, 1, 0, 0]):
        Image.fromarray(pixels[i]).save(frames / f"{number:04d}.png")
    maps = {}
    for name, more in (("as it is", []), ("smooth", ["--smooth", "0.8"])):
        out = tmp_path / name
        options = ["--images", str(frames), "--classes", "red disc; blue star; grass", "--output", str(out), *more]
        assert cli.main(["predict", *SCLIP, *options]) == 0
        maps[name] = [np.asarray(Image.open(out / "labels" / f"{number:04d}.png.png")) for number in range(5)]
        rows = json.loads((out / "predictions.json").read_text())["pictures"]
        for labels, row in zip(maps[name], rows, strict=True):
            shares = np.bincount(labels.ravel(), minlength=3) / labels.size
            assert sorted(of["area"] for of in row["classes"].values()) == sorted(round(s, 4) for s in shares if s)
    still = [np.mean(maps["as it is"][0] == of) for of in maps["as it is"]]
    assert [round(float(share), 6) for share in (still[0], still[1], still[3])] == [1, 1, 1]
    assert still[2] < 0.9
    smooth = [np.mean(maps["smooth"][0] == of) for of in maps["smooth"]]
    assert np.array_equal(maps["smooth"][1], maps["as it is"][1])
    assert smooth[2] > still[2] + 0.05
    capsys.readouterr()
    for value, message in (("1", "a number from 0 to 0.99"), ("much", "a number from 0 to 0.99")):
        assert message in fails(capsys, "predict", *SCLIP, *options[:6], "--smooth", value)
