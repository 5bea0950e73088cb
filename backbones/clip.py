"""CLIP through open_clip: pictures -> dense tokens under an attention rule, words -> embeddings (cached on disk).

Shapes: B pictures, (h, w) patch grid, n = h*w, D transformer width, C joint embedding, K words.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, cast

import open_clip
import torch
import torch.nn.functional as F
from huggingface_hub import snapshot_download
from open_clip.tokenizer import SimpleTokenizer
from open_clip.transformer import ResidualAttentionBlock, VisionTransformer
from torch import Tensor

from backbones.attention import RULES, Heads, Rule, rule_named
from backbones.tower import DenseTower, join_templates
from common.errors import UserError, known
from common.weights import state_hash

CHECKPOINTS = Path(__file__).parent / "checkpoints"
EMBEDDED = "embedded"
open_clip.add_model_config(CHECKPOINTS / "tiny_clip.json")


class CLIP(DenseTower):
    """A frozen CLIP.

    Args:
        model: an open_clip model name, ``hf-hub:owner/name``, or the path of an open_clip model config (.json).
        pretrained: an open_clip tag, the path of a .safetensors or .pt file of weights, ``"embedded"`` for the model
            shipped with the project, or None for random weights.
        revision: commit of the ``hf-hub`` repository; required there, so that a result names its weights.

    Raises:
        UserError: unknown model or tag, weights of another model, a tower that is not a ViT, no network.
    """

    rules = RULES
    has_positions = True
    mean: Tensor
    std: Tensor

    def __init__(self, model: str = "tiny_clip", pretrained: str | None = EMBEDDED, revision: str | None = None) -> None:
        super().__init__()
        self.name = f"{model}@{pretrained or revision or 'random'}"
        name, weights = _resolve(model, pretrained, revision)
        self.clip = _create(name, weights)
        self.tokenizer = _tokenizer(name)
        if not isinstance(self.clip.visual, VisionTransformer) or self.clip.visual.attn_pool is not None:
            raise UserError(f"model '{model}' has no plain ViT image tower; the attention rules need one, as in ViT-B-16.")
        preprocess = open_clip.get_model_preprocess_cfg(self.clip)
        self.register_buffer("mean", torch.tensor(preprocess["mean"]).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(preprocess["std"]).view(3, 1, 1), persistent=False)
        self.requires_grad_(False).eval()

    @property
    def visual(self) -> VisionTransformer:
        return cast(VisionTransformer, self.clip.visual)

    @property
    def blocks(self) -> list[ResidualAttentionBlock]:
        return [cast(ResidualAttentionBlock, block) for block in self.visual.transformer.resblocks]

    @property
    def stride(self) -> int:
        """Pixels per token."""
        return int(self.visual.patch_size[0])

    @property
    def native_side(self) -> int:
        return int(self.visual.image_size[0])

    @property
    def channels(self) -> int:
        return int(self.visual.output_dim)

    @property
    def scale(self) -> Tensor:  # type: ignore[override]  # an attribute of others
        scale: Tensor = self.clip.logit_scale.exp()
        return scale

    def tokens(
        self,
        images: Tensor,
        rule: str = "clip",
        position_resize: str = "scaled_bicubic",
        pooled: bool = False,
        projection: Tensor | None = None,
    ) -> tuple[Tensor | None, Tensor]:
        """See :class:`DenseTower`; the image embedding is that of the unchanged model.

        ``projection`` (D, C) takes the place of CLIP's own for the dense tokens (ICLIP's dual projections).
        """
        chosen = rule_named(rule)
        x, grid = self.embed_patches(images, position_resize)
        x, stream = self._run(x, grid, chosen, keep_original=pooled)
        patches = F.normalize(self.project(stream, projection)[:, 1:], dim=-1)
        dense = patches.transpose(1, 2).unflatten(2, grid)
        if not pooled:
            return None, dense
        return self.pool(x), dense

    def embed_image(self, images: Tensor, unit: bool = True) -> Tensor:
        """Image embeddings (B, C), unit-norm or as they are, of images (B, 3, H, W) in [0, 1]."""
        return self.pool(self.encode(images, "bicubic")[0], unit)

    def encode(self, images: Tensor, position_resize: str) -> tuple[Tensor, tuple[int, int]]:
        """Tokens after the unchanged transformer, (B, 1 + n, D), and the grid."""
        x, grid = self.embed_patches(images, position_resize)
        for block in self.blocks:
            x = block(x)
        return x, grid

    def pool(self, x: Tensor, unit: bool = True) -> Tensor:
        """Image embeddings (B, C), unit-norm or as they are, of the transformer's tokens (B, 1 + n, D)."""
        pooled = (self.visual._pool(x)[0] @ self.visual.proj).float()
        return F.normalize(pooled, dim=-1) if unit else pooled

    def embed_patches(self, images: Tensor, position_resize: str) -> tuple[Tensor, tuple[int, int]]:
        """What the first block sees, (B, 1 + n, D), and the grid.

        Pixels to the right and below that make no whole patch are dropped, and the grid stands for the whole image, as in the
        published code of SCLIP and NACLIP. A side shorter than a patch is resized to one.
        """
        height, width = (max(side, self.stride) for side in images.shape[-2:])
        if (height, width) != tuple(images.shape[-2:]):
            images = F.interpolate(images, (height, width), mode="bilinear", align_corners=False)
        patches = self.visual.conv1((images - self.mean) / self.std)
        grid = (patches.shape[2], patches.shape[3])
        x = torch.cat([self.visual.class_embedding.expand(len(images), 1, -1), patches.flatten(2).transpose(1, 2)], 1)
        table = resize_positions(self.visual.positional_embedding, self.visual.grid_size, grid, position_resize)
        return self.visual.ln_pre(x + table), grid

    def _run(self, x: Tensor, grid: tuple[int, int], rule: Rule, keep_original: bool) -> tuple[Tensor, Tensor]:
        """The transformer: (unchanged stream if kept, stream of the rule), both (B, 1 + n, D)."""
        depth = min(rule.depth, len(self.blocks) - 1)  # a shallow model keeps at least one plain block
        for block in self.blocks[:-depth]:
            x = block(x)
        stream = x if rule.residual else torch.zeros_like(x)
        for i, block in enumerate(self.blocks[-depth:], 1):
            stream = stream + block.ls_1(_rule_attention(block, x, grid, rule))
            if rule.feed_forward:
                stream = stream + block.ls_2(block.mlp(block.ln_2(stream)))
            if i < depth or keep_original:
                x = block(x)
        return x, stream

    def project(self, x: Tensor, projection: Tensor | None = None) -> Tensor:
        """Final LayerNorm and projection of every token: (B, 1 + n, D) -> (B, 1 + n, C)."""
        return self.visual.ln_post(x) @ (self.visual.proj if projection is None else projection)

    def class_attention(self, images: Tensor) -> Tensor:
        """(B, n) the last block's attention of the class token to the patches, mean over heads."""
        x, _ = self.embed_patches(images, "bicubic")
        for block in self.blocks[:-1]:
            x = block(x)
        last = self.blocks[-1]
        h = last.ln_1(x)
        return cast(Tensor, last.attn(h[:, :1], h, h, need_weights=True)[1][:, 0, 1:])

    def text_identity(self, words: list[str]) -> dict[str, str]:
        tokens = hashlib.sha256(self.tokenizer(words).numpy().tobytes()).hexdigest()
        return {"weights": self.text_weights_hash(), "tokens": tokens, "open_clip": open_clip.__version__}

    def encode_text(self, words: list[str], templates: list[str], ensemble: str) -> Tensor:
        prompts = [template.format(word) for word in words for template in templates]
        tokens = self.tokenizer(prompts).split(256)
        features = torch.cat([self.clip.encode_text(part.to(self.mean.device)) for part in tokens]).float()
        return join_templates(features.view(len(words), len(templates), -1), ensemble)

    def image_weights_hash(self) -> str:
        return state_hash(self.visual.state_dict())

    def text_weights_hash(self) -> str:
        return state_hash({k: v for k, v in self.clip.state_dict().items() if not k.startswith("visual.")})


def _rule_attention(block: ResidualAttentionBlock, x: Tensor, grid: tuple[int, int], rule: Rule) -> Tensor:
    """out_proj(rule(q, k, v)), (B, 1 + n, D)."""
    h = block.ln_1(x)
    attention = block.attn
    qkv = F.linear(h, attention.in_proj_weight, attention.in_proj_bias)
    q, k, v = (t.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2) for t in qkv.chunk(3, dim=-1))
    return cast(Tensor, attention.out_proj(rule.mix(Heads(q, k, v, h, grid)).transpose(1, 2).flatten(2)))


def resize_positions(table: Tensor, native: tuple[int, int], grid: tuple[int, int], how: str) -> Tensor:
    """Brings a position table (1 + h0*w0, D) to another grid, always from the original; row 0 (class token) stays.

    Args:
        table: learned positions.
        native: (h0, w0).
        grid: (h, w).
        how: see ``Protocol.position_resize``.
    """
    if grid == tuple(native):
        return table
    image_1Dhw = table[1:].T.unflatten(1, tuple(native))[None]
    if how == "scaled_bicubic":
        factor = ((grid[0] + 0.1) / native[0], (grid[1] + 0.1) / native[1])
        resized = F.interpolate(image_1Dhw, scale_factor=factor, mode="bicubic", align_corners=False)
    else:
        mode = "bilinear" if how == "bilinear" else "bicubic"
        resized = F.interpolate(image_1Dhw, grid, mode=mode, align_corners=False, antialias=how == "antialias")
    return torch.cat([table[:1], resized[0].flatten(1).T])


def _resolve(model: str, pretrained: str | None, revision: str | None) -> tuple[str, str | None]:
    """(name that open_clip knows, tag or path or None)."""
    if model.startswith("hf-hub:"):
        return "local-dir:" + _snapshot(model.removeprefix("hf-hub:"), revision), None
    if model.endswith(".json"):
        if not Path(model).is_file():
            raise UserError(f"model config '{model}' does not exist.")
        open_clip.add_model_config(model)
        model = Path(model).stem
    known("CLIP model", model, open_clip.list_models())
    if pretrained == EMBEDDED:
        weights = CHECKPOINTS / f"{model}.safetensors"
        if not weights.exists():
            shipped = ", ".join(path.stem for path in CHECKPOINTS.glob("*clip*.safetensors"))
            raise UserError(f"no embedded weights for '{model}' (shipped: {shipped}). Give --model.pretrained a tag or file.")
        return model, str(weights)
    if pretrained is not None and not Path(pretrained).is_file():
        if Path(pretrained).suffix in {".pt", ".pth", ".safetensors", ".bin"}:
            raise UserError(f"weights file '{pretrained}' does not exist.")
        known(f"pretrained tag of {model}", pretrained, [EMBEDDED, *open_clip.list_pretrained_tags_by_model(model)])
    return model, pretrained


def _snapshot(repository: str, revision: str | None) -> str:
    if revision is None:
        raise UserError(f"'hf-hub:{repository}' needs a pinned revision: give --model.revision COMMIT.")
    try:
        return snapshot_download(repository, revision=revision, allow_patterns=["*.json", "*.safetensors", "*.txt", "*.model"])
    except Exception as error:
        raise UserError(f"cannot get 'hf-hub:{repository}' at {revision}: {_first_line(error)}") from error


def _create(name: str, weights: str | None) -> Any:
    tag = open_clip.get_pretrained_cfg(name, weights) if weights else {}
    try:
        model = open_clip.create_model(
            name,
            pretrained=weights,
            force_quick_gelu=bool(tag.get("quick_gelu")),  # OpenAI weights in a model named without it are silently wrong
            pretrained_text=False,
        )
    except Exception as error:
        raise UserError(f"cannot load weights '{weights}' into CLIP '{name}': {_first_line(error)}") from error
    return model.float()


def _tokenizer(name: str) -> Any:
    bpe = CHECKPOINTS / f"{name}_bpe.txt.gz"
    if bpe.exists():
        return SimpleTokenizer(str(bpe), context_length=open_clip.get_model_config(name)["text_cfg"]["context_length"])
    return open_clip.get_tokenizer(name)


def _first_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
