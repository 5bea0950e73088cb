"""What a file of open_clip's weights does not say, QuickGELU and normalisation: from the list of released files, or asked."""

from __future__ import annotations

import hashlib
import re
import sys
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import open_clip

from common.errors import UserError

GELU, QUICK = "-gelu", "-quickgelu"  # ends of model names; the second is open_clip's, the first ours
DIGEST = re.compile(r"[/-]([0-9a-f]{64}|[0-9a-f]{8})(?:/|\.pth?$)")  # that open_clip checks a download by


@dataclass(frozen=True)
class Reading:
    """How a file is to be read.

    Attributes:
        quick_gelu: whether its blocks have QuickGELU where the model's config says nothing.
        normalisation: ``mean`` and ``std`` of its pictures; empty where none was released for the model.
        archive: whether it is a TorchScript archive, known by its digest to be a released one.
    """

    quick_gelu: bool = False
    normalisation: dict[str, Any] = field(default_factory=dict)
    archive: bool = False


def plain_name(model: str) -> str:
    """The architecture's name, without the activation that ends it."""
    base = model.removesuffix(QUICK).removesuffix(GELU)
    return base if f"{base}{QUICK}" in open_clip.list_models() else model


def reading_of(model: str, path: str) -> Reading:
    """How the weights in a file are to be read.

    A name that ends in ``-quickgelu`` or ``-gelu`` says its activation. The plain name of a model that was released with both
    says none, so that the file must be one that is known, by its digest or by the name of its file or folder.

    Raises:
        UserError: activation or normalisation cannot be known, the name contradicts the file, or the file is a program.
    """
    plain = plain_name(model)
    tags = _released(plain) | _released(f"{plain}{QUICK}")
    certain, archive = _by_digest(tags, path), _is_archive(path)
    if archive and certain is None:
        raise UserError(
            f"weights file '{path}' is a TorchScript archive, a program, and none that was released for {plain}. Save its "
            "state_dict as .safetensors, or give a pretrained tag."
        )
    tag = certain or _by_name(tags, path)
    quick = _activation(model, plain, tags[tag] if tag else None, path)
    if tag and quick != bool(tags[tag].get("quick_gelu")):
        if certain:
            raise UserError(f"weights file '{path}' is '{tag}', which model '{model}' contradicts. Name it '{plain}'.")
        tag = None  # the user's word counts for more than a folder's name
    if tag and not certain:
        print(f"note: '{path}' is read as '{tag}' of {plain}, for so it is named.", file=sys.stderr, flush=True)
    return Reading(quick, _normalisation([tags[tag]] if tag else [*tags.values()], quick, path), archive)


def _activation(model: str, plain: str, released: dict[str, Any] | None, path: str) -> bool:
    """Whether it is QuickGELU: as the name says, else as the released file has it."""
    if model != plain or f"{plain}{QUICK}" not in open_clip.list_models():
        return model.endswith(QUICK)
    if released is None:
        raise UserError(
            f"weights file '{path}' does not say its activation: name the model '{plain}{QUICK}' (OpenAI, MetaCLIP, DFN) or "
            f"'{plain}{GELU}' (most of LAION and DataComp)."
        )
    return bool(released.get("quick_gelu"))


def _normalisation(released: list[dict[str, Any]], quick: bool, path: str) -> dict[str, Any]:
    """What all released files share of which this may be one."""
    same = [config for config in released if bool(config.get("quick_gelu")) == quick]
    found = {(tuple(config["mean"]), tuple(config["std"])) for config in same}
    if len(found) > 1:
        raise UserError(
            f"weights file '{path}' does not say how its pictures are normalised, and released ones differ. Give its folder, "
            "with an open_clip_config.json, as the model: local-dir:FOLDER."
        )
    return next(({"mean": mean, "std": std} for mean, std in found), {})


def _released(model: str) -> dict[str, dict[str, Any]]:
    """open_clip's tags of a model, and what they say."""
    return {tag: open_clip.get_pretrained_cfg(model, tag) for tag in open_clip.list_pretrained_tags_by_model(model)}


def _by_digest(tags: dict[str, dict[str, Any]], path: str) -> str | None:
    digests = {found[1]: tag for tag, config in tags.items() if (found := DIGEST.search(config.get("url", "")))}
    if not digests:
        return None
    with Path(path).open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return digests.get(digest) or digests.get(digest[:8])


def _by_name(tags: dict[str, dict[str, Any]], path: str) -> str | None:
    """The tag whose file, repository, or folder in the hub's cache is a part of the path."""
    parts = {*Path(path).parts}
    for tag, config in tags.items():
        url, repository = config.get("url", ""), config.get("hf_hub", "").strip("/")
        names = {repository.rpartition("/")[2], f"models--{repository.replace('/', '--')}"}
        if not DIGEST.search(url):  # of others the name proves less than the digest denies
            names.add(url.rpartition("/")[2])
        if parts & (names - {""}):
            return tag
    return None


def _is_archive(path: str) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())
