"""Every shipped config: it has a header that says result, hardware and command, and it makes what it says."""

from pathlib import Path

import open_clip
import pytest
import yaml

import commands.compare
import commands.lightning
from backbones.towers import known_towers
from reporting.plan import read_plan
from tests.conftest import ROOT

CONFIGS = sorted(path.relative_to(ROOT) for path in (ROOT / "configs").rglob("*.yaml"))
WHOLE = [c for c in CONFIGS if c.parts[1] not in ("compare", "backbones", "benchmarks", "sweeps")]


@pytest.mark.parametrize("path", CONFIGS, ids=str)
def test_header(path: Path) -> None:
    header = [line for line in (ROOT / path).read_text().splitlines() if line.startswith("#")]
    for part in ("# result:", "# hardware:", "# command:"):
        assert any(line.startswith(part) for line in header), f"{path} lacks {part}"


@pytest.mark.parametrize("path", WHOLE, ids=str)
def test_it_can_be_instantiated(path: Path) -> None:
    content = yaml.safe_load((ROOT / path).read_text())
    arguments = content["model"].get("init_args", {})
    embedded = []  # in the place of what cannot be downloaded here
    if str(arguments.get("weights", "")).startswith("/"):
        embedded = ["--model.size=embedded", "--model.weights=embedded", "--model.tokenizer=null"]
    elif "/" in str(arguments.get("weights", "")):
        embedded = ["--model.weights=null"]
    elif "network_weights" in arguments:
        embedded = ["--model.network_weights=null", "--model.clip=tiny_clip", "--model.pretrained=embedded"]
    elif "sam" in arguments:
        embedded = ["--model.sam=null", "--model.dino=tiny_dino", "--model.clip=tiny_clip", "--model.pretrained=embedded"]
    elif arguments.get("size") == "base":
        embedded = ["--model.size=embedded", "--model.clip=tiny_clip", "--model.pretrained=embedded"]
    made = commands.lightning.build(["--config", str(path), "--trainer.logger=false", *embedded])
    assert type(made.model).__name__ == content["model"]["class_path"].rpartition(".")[2]
    assert type(made.datamodule).__name__ == content["data"]["class_path"]


@pytest.mark.parametrize("path", [c for c in CONFIGS if c.parts[1] == "backbones"], ids=str)
def test_backbones_are_known_and_go_behind_a_method(path: Path) -> None:
    arguments = yaml.safe_load((ROOT / path).read_text())["model"]["init_args"]
    assert arguments["clip"] in known_towers()
    assert arguments["pretrained"] in (None, "embedded", *open_clip.list_pretrained_tags_by_model(arguments["clip"]))
    here = ["--model.clip=tiny_clip", "--model.pretrained=embedded", "--trainer.logger=false"]  # without a download
    made = commands.lightning.build(["--config", "configs/training_free/maskclip.yaml", "--config", str(path), *here])
    protocol = made.model.protocol
    assert protocol.name == arguments["protocol"]
    assert arguments.get("protocol_values", {}).items() <= protocol.in_effect().items()


@pytest.mark.parametrize("path", [c for c in CONFIGS if c.parts[1] == "compare"], ids=str)
def test_comparisons_are_whole(path: Path) -> None:
    plan = read_plan(ROOT / path, commands.compare.parse_plan)
    builder = commands.compare.CommandLineBuilder()
    assert all(builder.data(entry).vocabulary.num_classes for entry in plan.benchmarks)
    assert all((ROOT / method.config).is_file() for method in plan.methods)
    names = {benchmark.name for benchmark in plan.benchmarks}
    assert all(set(method.benchmarks or []) <= names for method in plan.methods)
