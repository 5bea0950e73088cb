"""Models of open_clip: their weights, their words, their normalisation; what reads the pictures is in subclasses."""

from __future__ import annotations

import difflib
import hashlib
from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.tokenizer import SimpleTokenizer
from torch import Tensor

from backbones.hub import hub_folder
from backbones.released import GELU, Reading, plain_name, reading_of
from backbones.tower import DenseTower, join_templates
from common.errors import UserError, in_one_line, known
from common.kept import key_of
from common.weights import read_checkpoint, state_hash

CHECKPOINTS = Path(__file__).parent / "checkpoints"
EMBEDDED = "embedded"
HUB = "hf-hub:"
LOCAL = "local-dir:"  # open_clip's name for a folder that brings its weights
open_clip.add_model_config(CHECKPOINTS / "tiny_clip.json")


@dataclass(frozen=True)
class Loaded:
    """A model of open_clip: its ``name`` in results, whether its weights were ``pretrained``, the ``clip``, its tokenizer."""

    name: str
    pretrained: bool
    clip: Any
    tokenizer: Any


class OpenCLIPModel(DenseTower):
    """Base of the towers out of open_clip, each of which :meth:`reads` some kinds of image towers.

    Args:
        model: an open_clip model name, ``hf-hub:owner/name``, ``local-dir:folder`` of such a repository's files, or the path
            of an open_clip model config (.json).
        pretrained: an open_clip tag, the path of a .safetensors or .pt file of weights (read as
            :mod:`backbones.released` says), ``"embedded"`` for the model shipped with the project, or None for random weights.
        revision: commit of the ``hf-hub`` repository; required there, so that a result names its weights.
        loaded: in the place of all these, a model that :func:`load_open_clip` has loaded.

    Raises:
        UserError: unknown model or tag, weights of another model, a tower that the class cannot read, no network.
    """

    unreadable: str  # what is said of a model that the class does not read
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        model: str = "tiny_clip",
        pretrained: str | None = EMBEDDED,
        revision: str | None = None,
        loaded: Loaded | None = None,
    ) -> None:
        super().__init__()
        loaded = loaded or load_open_clip(model, pretrained, revision)
        if not self.reads(loaded.clip.visual):
            raise UserError(f"model '{model}' {self.unreadable}")
        self.name, self.pretrained, self.clip, self.tokenizer = loaded.name, loaded.pretrained, loaded.clip, loaded.tokenizer
        preprocess = open_clip.get_model_preprocess_cfg(self.clip)
        self.register_buffer("mean", torch.tensor(preprocess["mean"]).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(preprocess["std"]).view(3, 1, 1), persistent=False)
        self.requires_grad_(False).eval()

    @staticmethod
    @abstractmethod
    def reads(visual: Any) -> bool:
        """Whether the class knows how to read an image tower of open_clip."""

    @property
    def scale(self) -> Tensor:  # type: ignore[override]  # an attribute of others
        scale: Tensor = self.clip.logit_scale.exp()
        return scale

    @property
    def bias(self) -> Tensor | None:  # type: ignore[override]
        bias: Tensor | None = self.clip.logit_bias
        return bias

    def image_weights_hash(self) -> str:
        return self._identity(state_hash(self.clip.visual.state_dict()), self.mean.tolist(), self.std.tolist())

    def text_identity(self, words: list[str]) -> dict[str, str]:
        tokens = hashlib.sha256(self.tokenizer(words).numpy().tobytes()).hexdigest()
        return {"weights": self.text_weights_hash(), "tokens": tokens, "open_clip": open_clip.__version__}

    def encode_text(self, words: list[str], templates: list[str], ensemble: str) -> Tensor:
        prompts = [template.format(word) for word in words for template in templates]
        tokens = self.tokenizer(prompts).split(256)
        features = torch.cat([self.clip.encode_text(part.to(self.mean.device)) for part in tokens]).float()
        return join_templates(features.view(len(words), len(templates), -1), ensemble)

    def text_weights_hash(self) -> str:
        return self._identity(state_hash({k: v for k, v in self.clip.state_dict().items() if not k.startswith("visual.")}))

    def _identity(self, *content: Any) -> str:
        """12 hex digits of content and of the modules, for weights do not say their activation."""
        return key_of(content=[*content], modules=repr(self.clip))[:12]


def load_open_clip(model: str, pretrained: str | None = None, revision: str | None = None) -> Loaded:
    """See :class:`OpenCLIPModel`."""
    name, weights, reading = _resolve(model, pretrained, revision)
    clip = _create(name, weights, reading)
    folder = name.startswith(LOCAL)
    origin = revision or "file" if folder else pretrained or "random"
    return Loaded(f"{model}@{origin}", folder or weights is not None, clip, _tokenizer(name))


def _resolve(model: str, pretrained: str | None, revision: str | None) -> tuple[str, str | None, Reading]:
    """(name that open_clip knows, tag or path or None, how a file is to be read)."""
    if model.startswith(HUB):
        return LOCAL + hub_folder(HUB, model.removeprefix(HUB), revision), None, Reading()
    if model.startswith(LOCAL):
        if not Path(model.removeprefix(LOCAL), "open_clip_config.json").is_file():
            raise UserError(f"'{model}' is no folder with an open_clip_config.json.")
        return model, None, Reading()
    if model.endswith(".json"):
        if not Path(model).is_file():
            raise UserError(f"model config '{model}' does not exist.")
        open_clip.add_model_config(model)
        return Path(model).stem, _weights(Path(model).stem, pretrained), Reading()
    is_file = pretrained not in (None, EMBEDDED) and Path(str(pretrained)).is_file()
    name = plain_name(model) if is_file and model.endswith(GELU) else model
    _check_name(name)
    weights = _weights(name, pretrained)
    return name, weights, reading_of(model, str(weights)) if is_file else Reading()


def _check_name(name: str) -> None:
    if name == "packaged" or name.startswith("transformers:"):
        raise UserError(f"tower '{name}' is none of open_clip's, of which this method needs one.")
    if name not in open_clip.list_models():
        near = difflib.get_close_matches(name, [*open_clip.list_models(), "packaged"], n=1)
        hint = f" Did you mean '{near[0]}'?" if near else ""
        raise UserError(f"unknown tower '{name}'.{hint} 'zerolabel list towers' names them and says how to give your own.")


def _weights(model: str, pretrained: str | None) -> str | None:
    """Tag or path of a model's weights; None for random ones."""
    if pretrained == EMBEDDED:
        weights = CHECKPOINTS / f"{model}.safetensors"
        if not weights.exists():
            shipped = ", ".join(path.stem for path in CHECKPOINTS.glob("*clip*.safetensors"))
            raise UserError(f"no embedded weights for '{model}' (shipped: {shipped}). Give --model.pretrained a tag or file.")
        return str(weights)
    if pretrained is not None and not Path(pretrained).is_file():
        if Path(pretrained).suffix in {".pt", ".pth", ".safetensors", ".bin"}:
            raise UserError(f"weights file '{pretrained}' does not exist.")
        known(f"pretrained tag of {model}", pretrained, [EMBEDDED, *open_clip.list_pretrained_tags_by_model(model)])
    return pretrained


def _create(name: str, weights: str | None, reading: Reading) -> Any:
    tag = open_clip.get_pretrained_cfg(name, weights) if weights else {}
    try:
        model = open_clip.create_model(
            name,
            pretrained=weights,
            force_quick_gelu=reading.quick_gelu or bool(tag.get("quick_gelu")),  # in a model named without it, silently wrong
            force_preprocess_cfg=reading.normalisation,
            weights_only=not reading.archive,
            pretrained_text=False,
            require_pretrained=weights is not None or name.startswith(LOCAL),  # a folder without weights is not random
        )
    except Exception as error:
        if weights and "weights_only" in str(error):
            read_checkpoint(weights)  # says in our words what is wrong; torch advises to run what is in the file
        raise UserError(f"cannot load weights '{weights or name}' into CLIP '{name}': {in_one_line(error)}") from error
    return model.float()


def _tokenizer(name: str) -> Any:
    bpe = CHECKPOINTS / f"{name}_bpe.txt.gz"
    if bpe.exists():
        return SimpleTokenizer(str(bpe), context_length=open_clip.get_model_config(name)["text_cfg"]["context_length"])
    try:
        return open_clip.get_tokenizer(name)
    except Exception as error:  # some are fetched from the hub, beside the weights
        raise UserError(f"cannot get the tokenizer of CLIP '{name}': {in_one_line(error)}") from error
