"""The menu of methods: what the command line names, the packaged tower, and shipped configs whose weights are here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import common.compat  # noqa: F401  (must come before lightning)

from huggingface_hub import constants

from backbones.open_clip_model import EMBEDDED
from backbones.towers import is_here
from commands.checks import learns
from commands.predict_options import CONFIG, TOWER
from common.arguments import option_pairs
from common.files import ROOT, read_yaml
from methods import METHODS

NO_METHODS = ("compare", "backbones", "benchmarks", "sweeps", "pretrain")  # folders of configs
SHAPES = "coloured shapes only (embedded model)"
PHOTOGRAPHS = "photographs"


@dataclass(frozen=True)
class Choice:
    """A method to choose.

    Attributes:
        title: unique on the menu.
        group: the heading that it stands under.
        about: a sentence or two.
        options: of the command line.
        background: whether what is none of the classes is best one of its own.
    """

    title: str
    group: str
    about: str
    options: tuple[str, ...]
    background: bool = False


def menu(options: list[str]) -> list[Choice]:
    """All choices, the first of which the page opens with.

    Args:
        options: of a method, from the command line; may be empty.
    """
    found = []
    if options:
        names = [Path(value).stem for option, value in option_pairs(options) if option in ("--config", "-c")]
        found.append(
            Choice("command line", "named on the command line", " + ".join(names) or " ".join(options), tuple(options))
        )
    return found + shipped_choices()


def shipped_choices() -> list[Choice]:
    """The packaged tower first; then every config of a method that needs no training, alone and with each config of a tower."""
    towers: list[Path | None] = [None, *sorted((ROOT / "configs" / "backbones").glob("*.yaml"))]
    models: list[dict[str, Any]] = [read_yaml(tower)["model"]["init_args"] if tower else {} for tower in towers]
    found = []
    for file in sorted((ROOT / "configs").rglob("*.yaml"), key=lambda file: (file != ROOT / CONFIG, file)):
        if file.relative_to(ROOT).parts[1] in NO_METHODS:
            continue
        model = read_yaml(file)["model"]
        if not learns(METHODS[model["class_path"].rpartition(".")[2]]):
            given = model.get("init_args", {})
            pairs = zip(towers, models, strict=True)
            fits = "clip" in given and "dino" not in given  # whose second tower is as tiny as the first
            found += [_choice(file, given, tower, other) for tower, other in pairs if tower is None or fits]
    return sorted((choice for choice in found if choice), key=lambda choice: choice.group == SHAPES)


def _choice(file: Path, given: dict[str, Any], tower: Path | None, other: dict[str, Any]) -> Choice | None:
    """A config with the options that it has, and with those of a tower; None where its weights are not here."""
    if tower is not None and (given["clip"] == "packaged" or other["clip"] == "packaged"):
        return None
    given = given | other
    if not is_here(given.get("clip"), given.get("pretrained", EMBEDDED), given.get("weights")):
        return None
    by_default = file == ROOT / CONFIG
    of_photographs = by_default or tower is not None or "/" in str(given.get("weights"))
    parts = [file] if tower is None else [file, tower]
    options = tuple(word for part in parts for word in ("--config", str(part)))
    about = TOWER.partition(" Better,")[0] if by_default else " ".join(_first_line(part) for part in parts)
    group = PHOTOGRAPHS if of_photographs else SHAPES
    title = "packaged tower" if by_default else " + ".join(part.stem for part in parts)
    return Choice(title, group, about, options, by_default)


def offline() -> None:
    """From now on the hub is not asked, not even whether a file in its cache is the newest."""
    constants.HF_HUB_OFFLINE = True


def _first_line(config: Path) -> str:
    """The first comment of a config, which says what it is."""
    with config.open(encoding="utf-8") as lines:
        return next(lines).removeprefix("#").strip()
