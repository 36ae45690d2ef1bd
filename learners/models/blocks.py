"""The blocks of a decoder layer: normalisation, attention, feed-forward.

Dimensions: B or R rows, T or C tokens, H hidden size, N query heads, K key-value heads, D head size,
S attended positions, L cache length.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from learners.models.visibility import BlockMask, Mask, block_attention

__all__ = [
    "Attend",
    "Attention",
    "FeedForward",
    "Layer",
    "RMSNorm",
    "Rope",
    "attention",
    "cached_attention",
    "head_size",
]

Rope = tuple[Tensor, Tensor]
"""Cosines and sines, each [B, T, 1, D]."""
Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]
"""(layer, queries [B, T, N, D], keys [B, T, K, D], values [B, T, K, D]) -> [B, T, N, D]"""
Fused = tuple[Tensor, Tensor | None]
"""Stacked weights and biases of projections that share an input."""


class Layer(nn.Module):
    """Pre-norm attention and feed-forward, each with a residual."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.self_attn = Attention(config)
        self.mlp = FeedForward(config)
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, hidden: Tensor, rope: Rope, index: int, attend: Attend) -> Tensor:
        hidden = hidden + self.self_attn(self.input_layernorm(hidden), rope, index, attend)
        return hidden + self.mlp(self.post_attention_layernorm(hidden))


class RMSNorm(nn.Module):
    """Scale to unit root mean square, computed in float32. Source: arXiv:1910.07467 eq. 4."""

    def __init__(self, size: int, epsilon: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.epsilon = epsilon

    def forward(self, x: Tensor) -> Tensor:
        # Under autocast what comes out of a projection is narrower than the weight, which no fused kernel takes.
        return F.rms_norm(x.to(self.weight.dtype), self.weight.shape, self.weight, self.epsilon)


class Attention(nn.Module):
    """Grouped-query attention with rotary positions; biases as Qwen2 has them, per-head norms as Qwen3 has."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.heads = config.num_attention_heads
        self.key_value_heads = config.num_key_value_heads
        self.head_size = head_size(config)
        bias = config.model_type == "qwen2" or config.attention_bias
        width, narrow = self.heads * self.head_size, self.key_value_heads * self.head_size
        self.q_proj = nn.Linear(config.hidden_size, width, bias=bias)
        self.k_proj = nn.Linear(config.hidden_size, narrow, bias=bias)
        self.v_proj = nn.Linear(config.hidden_size, narrow, bias=bias)
        self.o_proj = nn.Linear(width, config.hidden_size, bias=bias and config.model_type != "qwen2")
        if config.model_type == "qwen3":
            self.q_norm = RMSNorm(self.head_size, config.rms_norm_eps)
            self.k_norm = RMSNorm(self.head_size, config.rms_norm_eps)
        self.normed = config.model_type == "qwen3"
        self._fused: Fused | None = None

    def forward(self, x: Tensor, rope: Rope, index: int, attend: Attend) -> Tensor:
        shape = (*x.shape[:2], -1, self.head_size)
        queries, keys, values = (part.view(shape) for part in self._project(x))
        if self.normed:
            queries, keys = self.q_norm(queries), self.k_norm(keys)
        mixed = attend(index, rotate(queries, rope), rotate(keys, rope), values)
        return self.o_proj(mixed.reshape(*x.shape[:2], -1))

    def fuse(self) -> None:
        """Stack the three projections for inference."""
        self._fused = fuse(self.q_proj, self.k_proj, self.v_proj)

    def _project(self, x: Tensor) -> tuple[Tensor, ...]:
        if self._fused is None or torch.is_grad_enabled():
            return self.q_proj(x), self.k_proj(x), self.v_proj(x)
        return F.linear(x, *self._fused).split([p.out_features for p in (self.q_proj, self.k_proj, self.v_proj)], -1)


class FeedForward(nn.Module):
    """SwiGLU. Source: arXiv:2002.05202 sec. 2."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        bias = getattr(config, "mlp_bias", False)
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=bias)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=bias)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=bias)
        self._fused: Fused | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self._fused is None or torch.is_grad_enabled():
            gate, up = self.gate_proj(x), self.up_proj(x)
        else:
            gate, up = F.linear(x, *self._fused).chunk(2, -1)
        return self.down_proj(F.silu(gate) * up)

    def fuse(self) -> None:
        """Stack gate and up projection for inference."""
        self._fused = fuse(self.gate_proj, self.up_proj)


@torch.no_grad()
def fuse(*projections: nn.Linear) -> Fused:
    """Stack the weights (and biases) of projections of one input; the originals become views of the stack."""
    weight = torch.cat([p.weight for p in projections])
    bias = None if projections[0].bias is None else torch.cat([p.bias for p in projections])
    start = 0
    for p in projections:
        end = start + p.out_features
        p.weight.data = weight[start:end]
        if bias is not None:
            p.bias.data = bias[start:end]
        start = end
    return weight, bias


def rotate(x: Tensor, rope: Rope) -> Tensor:
    """Rotate [B, T, heads, D] by position. Source: arXiv:2104.09864 eq. 34, in Hugging Face's half-split order."""
    first, second = x.chunk(2, -1)
    return x * rope[0] + torch.cat((-second, first), -1) * rope[1]


def attention(queries: Tensor, keys: Tensor, values: Tensor, mask: Mask) -> Tensor:
    """Return softmax(q k / sqrt(D)) v as [B, T, N, D]; queries [B, T, N, D], keys and values [B, K, T, D]."""
    queries = queries.transpose(1, 2)
    if isinstance(mask, BlockMask):
        return block_attention(queries, keys, values, mask, None).transpose(1, 2)
    mixed = F.scaled_dot_product_attention(
        queries,
        keys,
        values,
        attn_mask=None if mask is None else mask[:, None],
        is_causal=mask is None,
        enable_gqa=queries.shape[1] != keys.shape[1],
    )
    return mixed.transpose(1, 2)


def cached_attention(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
    """Return the same as `attention` for few queries and a contiguous cache, where two batched products are faster.

    Args:
      queries: [R, C, N, D] float.
      keys, values: [R, K, L, D] float, contiguous.
      mask: [R, 1, C, L] float, added to the scores.
    """
    rows, count, heads, size = queries.shape
    groups, length = keys.shape[1], keys.shape[2]
    # Query heads that share a key-value head become rows of one product.
    split = queries.view(rows, count, groups, -1, size).transpose(1, 2).reshape(rows * groups, -1, size)
    bias = mask[..., None, :].expand(-1, groups, -1, heads // groups, -1).reshape(rows * groups, -1, length)
    scores = torch.baddbmm(bias, split, keys.view(-1, length, size).transpose(1, 2), alpha=size**-0.5)
    mixed = scores.softmax(-1).bmm(values.view(-1, length, size))
    return mixed.view(rows, groups, count, -1, size).transpose(1, 2).reshape(rows, count, heads, size)


def head_size(config: Any) -> int:
    """Return D of a transformers config."""
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
