"""zerolabel export: what the file says is what the method says, on pictures of any size; it runs without torch."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import pytest
import torch
from PIL import Image

import cli
from commands import export
from datamodules import DATAMODULES
from methods import METHODS
from reporting import model_file
from reporting.model_file import read_legend, runner
from tests.conftest import ROOT

SCLIP = ("--config", "configs/training_free/sclip.yaml")
CLASSES = "background, grass, sand; red plain disc, red dotted disc; blue striped square; green plain star"
SIZES = ((64, 64), (65, 131), (480, 321), (40, 200))


def asked(output: Path, *options: str) -> list[str]:
    return [*(options or SCLIP), "--classes", CLASSES, "--output", str(output)]


def pictures() -> list[np.ndarray]:
    """Drawn shapes (1, 3, H, W), brought to several sizes."""
    benchmark = DATAMODULES["Shapes"](pictures=len(SIZES)).benchmark("test")
    drawn = [Image.fromarray(benchmark[i]["image"].permute(1, 2, 0).numpy()) for i in range(len(SIZES))]
    sized = [image.resize(size[::-1]) for image, size in zip(drawn, SIZES, strict=True)]
    return [np.asarray(image).transpose(2, 0, 1)[None].copy() for image in sized]


def fails(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert cli.main(["export", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("exported") / "sclip.onnx"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        assert cli.main(["export", *asked(path)]) == 0
    return path


def test_a_file_gives_the_methods_label_maps_at_any_size(exported: Path) -> None:
    model, run = export.method_of(export.export_options(asked(exported))), runner(exported)
    shown = set()
    for picture in pictures():
        labels = model.segment(torch.from_numpy(picture[0])).labels.numpy()
        assert run(picture).dtype == np.uint8
        assert (run(picture) == labels).mean() > 0.9995  # ties may go either way
        shown |= set(np.unique(labels))
    assert len(shown) > 2


def test_a_file_says_what_it_is(exported: Path) -> None:
    legend, model = read_legend(exported), export.method_of(export.export_options(asked(exported)))
    assert legend["names"] == ["background", "red plain disc", "blue striped square", "green plain star"]
    assert legend["words"][1] == ["red plain disc", "red dotted disc"]
    assert legend["protocol_hash"] == model.protocol.hash
    assert legend["palette"] == model.vocabulary.palette.flatten().tolist()
    assert legend["method"] == "TrainingFree"


def test_the_text_tower_is_not_in_it(exported: Path) -> None:
    model = export.method_of(export.export_options(asked(exported)))
    of_pictures = sum(value.nbytes for value in model.backbone.clip.visual.state_dict().values())
    assert of_pictures <= exported.stat().st_size < 1.2 * of_pictures + 500_000


def test_the_script_runs_it_without_torch(exported: Path, tmp_path: Path) -> None:
    picture = pictures()[1]
    Image.fromarray(picture[0].transpose(1, 2, 0)).save(tmp_path / "a.png")
    code = f"""
import runpy, sys
sys.modules["torch"] = None  # importing it is an error
sys.argv = ["run_exported.py", {str(exported)!r}, "a.png"]
runpy.run_path({str(ROOT / "docs" / "run_exported.py")!r})
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True, timeout=60)
    expected = runner(exported)(picture)
    with Image.open(tmp_path / "a_labels.png") as image:
        assert image.mode == "P"
        assert np.array_equal(np.asarray(image), expected)
    assert f"background {(expected == 0).mean():.1%}" in done.stdout


def test_a_trained_network_as_pt2(tmp_path: Path) -> None:
    """FreeSeg's network from a checkpoint alone, against ``predict`` with the same checkpoint."""
    model = METHODS["FreeSeg"]()
    for parameter in model.network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    checkpoint = {
        "state_dict": model.state_dict(),
        "pytorch-lightning_version": lightning.__version__,
        "hyper_parameters": dict(model.hparams) | {"_class_path": "methods.FreeSeg"},
    }
    model.on_save_checkpoint(checkpoint)
    torch.save(checkpoint, tmp_path / "m.ckpt")
    assert cli.main(["export", *asked(tmp_path / "m.pt2", "--ckpt_path", str(tmp_path / "m.ckpt"))]) == 0
    (tmp_path / "in").mkdir()
    for number, picture in enumerate(pictures()):
        Image.fromarray(picture[0].transpose(1, 2, 0)).save(tmp_path / "in" / f"{number}.png")
    options = ["--ckpt_path", str(tmp_path / "m.ckpt"), "--images", str(tmp_path / "in"), "--classes", CLASSES]
    assert cli.main(["predict", *options, "--output", str(tmp_path), "--trainer.accelerator=cpu"]) == 0
    run, shown = runner(tmp_path / "m.pt2"), set()
    for number, picture in enumerate(pictures()):
        with Image.open(tmp_path / "labels" / f"{number}.png.png") as image:
            expected = np.asarray(image)
        shown |= set(np.unique(expected))
        assert (run(picture) == expected).mean() > 0.9995
    assert len(shown) > 1
    assert read_legend(tmp_path / "m.pt2")["method"] == "FreeSeg"


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"refine": "pamr"}, "TrainingFree cannot be exported: the protocol's refine pamr is not part of a graph"),
        ({"background": "words", "area_threshold": 0.1}, "area_threshold drops classes by what each picture shows"),
        ({"crop": None, "stride": None}, "positions depend on the size of what it reads; set the protocol's crop and stride"),
        ({"short_side": 50}, "short_side 50 is less than a window; set it to 64 or more"),
    ],
)
def test_what_no_graph_can_say_is_refused(
    values: dict[str, Any], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = asked(tmp_path / "m.onnx", *SCLIP, "--model.protocol_values", json.dumps(values))
    assert says in fails(capsys, *arguments)
    assert not list(tmp_path.iterdir())


def test_mistakes(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    out = str(tmp_path / "m.onnx")
    assert "--output is 'm.tflite'; it must end in .onnx or .pt2" in fails(capsys, "--classes=cat", "--output=m.tflite")
    assert "--classes is missing" in fails(capsys, "--output", out)
    assert "--output needs a value" in fails(capsys, "--classes", "cat", "--output")
    ifseg = "--config=configs/ifseg/shapes.yaml"
    assert "IFSeg cannot be exported" in fails(capsys, ifseg, "--classes=words that it does not know", "--output", out)
    assert "--quantise is onnxruntime's" in fails(capsys, "--classes=cat", "--output=m.pt2", "--quantise")
    assert "checkpoint 'no.ckpt' does not exist" in fails(capsys, *asked(Path(out), *SCLIP, "--ckpt_path=no.ckpt"))
    monkeypatch.setattr(model_file, "find_spec", lambda name: None if name == "onnxruntime" else object())
    assert "ONNX needs onnxruntime: pip install 'zerolabel[export]'" in fails(capsys, "--classes=cat", "--output", out)


@pytest.mark.parametrize("broken", ["full", "wrong"])
def test_no_half_file_is_left(
    broken: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is full half-way, or the file says something else than the method."""

    def write(program: Any, legend: Any, path: Path, quantise: bool) -> None:
        path.write_bytes(b"half")
        if broken == "full":
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(export, "graph_of", lambda model: None)
    monkeypatch.setattr(model_file, "_write_onnx", write)
    monkeypatch.setattr(model_file, "runner", lambda path: lambda picture: np.full(picture.shape[2:], 3, np.uint8))
    (tmp_path / "m.onnx").write_bytes(b"an older one")
    line = fails(capsys, *asked(tmp_path / "m.onnx"))
    assert ("No space left" if broken == "full" else "agrees with the method on") in line
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]
    assert (tmp_path / "m.onnx").read_bytes() == b"an older one"


class WeighsByWhatItSees(torch.nn.Module):
    """A convolution with a bias whose weights follow from the picture, and one whose weights are fixed."""

    def __init__(self) -> None:
        super().__init__()
        self.fixed = torch.nn.Conv2d(3, 8, 3, padding=1)

    def forward(self, picture: torch.Tensor) -> torch.Tensor:
        pixels = picture.float() / 255
        weights = self.fixed.weight * pixels.mean()
        both = self.fixed(pixels) + torch.nn.functional.conv2d(pixels, weights, self.fixed.bias, padding=1)
        return both.argmax(1)[0].to(torch.uint8)


def test_weights_that_follow_from_the_picture_stay_as_they_are_in_8_bits(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module, picture = WeighsByWhatItSees().eval(), torch.randint(0, 256, (1, 3, 32, 40), dtype=torch.uint8)
    with torch.no_grad():
        program, expected = torch.export.export(module, (picture,)), module(picture).numpy()
    seen = [(picture.numpy(), expected)]
    assert model_file.write_model(program, {}, tmp_path / "m.onnx", seen, quantise=True) > 0.9
    assert read_legend(tmp_path / "m.onnx") == {"quantised": True}
