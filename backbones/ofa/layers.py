"""OFA's transformer blocks: pre-norm with NormFormer's extra norms and head scaling; positions come only as biases."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import stochastic_depth

from backbones.ofa.kernels import attend


class Attention(nn.Module):
    """softmax(q kT (2 hd)^-1/2 + bias) v, scaled per head by ``c_attn`` before the output projection."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(width, width) for _ in range(4))
        self.c_attn = nn.Parameter(torch.ones(heads))

    def forward(self, x: Tensor, memory: Tensor, bias: Tensor) -> Tensor:
        """x (B, P, d), memory (B, S, d), bias (1 or B, H, P, S) with -inf where not to look -> (B, P, d)."""
        q, k, v = (
            projection(source).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for projection, source in ((self.q_proj, x), (self.k_proj, memory), (self.v_proj, memory))
        )
        out = attend(q, k, v, bias.to(q.dtype), (2 * q.shape[-1]) ** -0.5)
        out = out * self.c_attn.to(out.dtype)[:, None, None]
        attended: Tensor = self.out_proj(out.transpose(1, 2).flatten(2))
        return attended


class Residual(nn.Module):
    """Dropout and drop path of a block's branches."""

    def __init__(self, dropout: float, drop_path: float) -> None:
        super().__init__()
        self.dropout, self.drop_path = dropout, drop_path

    def add(self, x: Tensor, branch: Tensor) -> Tensor:
        branch = F.dropout(branch, self.dropout, self.training)
        return x + stochastic_depth(branch, self.drop_path, "row", self.training)


class EncoderLayer(Residual):
    """x += attn_ln(SA(norm(x))); x += fc2(ffn_layernorm(gelu(fc1(norm(x)))))."""

    def __init__(self, width: int, hidden: int, heads: int, dropout: float, drop_path: float) -> None:
        super().__init__(dropout, drop_path)
        self.self_attn = Attention(width, heads)
        self.self_attn_layer_norm, self.attn_ln, self.final_layer_norm = (nn.LayerNorm(width) for _ in range(3))
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.ffn_layernorm = nn.LayerNorm(hidden)

    def feed_forward(self, x: Tensor) -> Tensor:
        return self.add(x, self.fc2(self.ffn_layernorm(F.gelu(self.fc1(self.final_layer_norm(x))))))

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        normed = self.self_attn_layer_norm(x)
        return self.feed_forward(self.add(x, self.attn_ln(self.self_attn(normed, normed, bias))))


class DecoderLayer(EncoderLayer):
    """The same with cross-attention between, and the published names of its norms."""

    def __init__(self, width: int, hidden: int, heads: int, dropout: float, drop_path: float) -> None:
        super().__init__(width, hidden, heads, dropout, drop_path)
        del self.attn_ln
        self.encoder_attn = Attention(width, heads)
        self.self_attn_ln, self.encoder_attn_layer_norm, self.cross_attn_ln = (nn.LayerNorm(width) for _ in range(3))

    def forward(self, x: Tensor, bias: Tensor, memory: Tensor, cross_bias: Tensor) -> Tensor:  # type: ignore[override]
        normed = self.self_attn_layer_norm(x)
        x = self.add(x, self.self_attn_ln(self.self_attn(normed, normed, bias)))
        x = self.add(x, self.cross_attn_ln(self.encoder_attn(self.encoder_attn_layer_norm(x), memory, cross_bias)))
        return self.feed_forward(x)
