"""The native network of the Llama, Qwen2 and Qwen3 families.

Its weights carry Hugging Face's names, so that checkpoints are exchanged by identity.

Dimensions: B rows, T tokens, H hidden size, N query heads, K key-value heads, D head size, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from learners.models.blocks import (
    Attend,
    Attention,
    FeedForward,
    Layer,
    RMSNorm,
    Rope,
    attention,
    cached_attention,
    head_size,
)
from learners.models.cache import KeyValueCache
from learners.models.visibility import Mask

__all__ = ["CausalDecoder", "unsupported"]

FAMILIES = ("llama", "qwen2", "qwen3")
STATIC_ROPES = ("default", "linear", "llama3", "yarn")


def unsupported(config: Any) -> str | None:
    """Return why the native network cannot run a transformers config, or None where it can."""
    if config.model_type not in FAMILIES:
        return f"model_type is {config.model_type!r}; the native families are {', '.join(FAMILIES)}"
    if config.hidden_act != "silu":
        return f"hidden_act is {config.hidden_act!r}; natively it must be 'silu'"
    if config.rope_parameters["rope_type"] not in STATIC_ROPES:
        return f"rope_type is {config.rope_parameters['rope_type']!r}; natively one of {', '.join(STATIC_ROPES)}"
    if "sliding_attention" in (getattr(config, "layer_types", None) or ()):
        return "it has sliding-window layers"
    return None


class CausalDecoder(nn.Module):
    """A decoder-only transformer: RMSNorm, rotary positions, grouped-query attention, SwiGLU."""

    def __init__(self, config: Any) -> None:
        """Build with uninitialised weights.

        Raises:
          ValueError: the architecture is not one of the native families.
        """
        super().__init__()
        if reason := unsupported(config):
            raise ValueError(f"no native network: {reason}; use network=transformers")
        self.config = config
        self.model = Backbone(config)
        tied = config.tie_word_embeddings
        self.lm_head = None if tied else nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self._inverse_frequencies, self._rope_scale = rope_frequencies(config)

    def forward(self, tokens: Tensor, positions: Tensor, mask: Mask = None) -> Tensor:
        """Return hidden states after the final norm.

        Args:
          tokens: [B, T] long.
          positions: [B, T] long; restart at 0 for each packed sequence.
          mask: which keys a query sees; a query of padding that sees nothing gets finite, meaningless
            states and gradients.

        Returns:
          [B, T, H]
        """

        def attend(layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
            return attention(queries, keys.transpose(1, 2), values.transpose(1, 2), mask)

        return self._run(tokens, positions, attend)

    def decode(self, tokens: Tensor, positions: Tensor, cache: KeyValueCache) -> Tensor:
        """Append tokens [R, C] at `positions` [R, C] to the cache; return their hidden states [R, C, H].

        A query sees every cache entry up to its own position; each row's positions must ascend.
        """
        places = cache.places(positions)

        def attend(layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
            all_keys, all_values = cache.write(layer, keys, values, places)
            return cached_attention(queries, all_keys, all_values, places.mask)

        return self._run(tokens, positions, attend)

    def logits(self, hidden: Tensor) -> Tensor:
        """Return [..., V] logits of [..., H] hidden states."""
        head = self.model.embed_tokens if self.lm_head is None else self.lm_head
        return F.linear(hidden, head.weight)

    def new_cache(self, rows: int, length: int) -> KeyValueCache:
        """Return an empty cache of `rows` rows and `length` positions on the network's device."""
        c = self.config
        like = self.model.embed_tokens.weight
        return KeyValueCache(c.num_hidden_layers, rows, c.num_key_value_heads, length, head_size(c), like)

    def prepare_decoding(self) -> None:
        """Fuse projections for inference. Parameters become views: change them only in place from here on."""
        for module in self.modules():
            if isinstance(module, Attention | FeedForward):
                module.fuse()

    def named_weights(self) -> dict[str, Tensor]:
        """Return every weight under its Hugging Face name; tied embeddings appear once."""
        return dict(self.named_parameters())

    def _run(self, tokens: Tensor, positions: Tensor, attend: Attend) -> Tensor:
        hidden = self.model.embed_tokens(tokens)
        rope = self._rope(positions, hidden.dtype)
        for index, layer in enumerate(self.model.layers):
            hidden = layer(hidden, rope, index, attend)
        return self.model.norm(hidden)

    def _rope(self, positions: Tensor, dtype: torch.dtype) -> Rope:
        """Return cosines and sines [B, T, 1, D] of `positions` [B, T]."""
        angles = positions[..., None].float() * self._inverse_frequencies.to(positions.device)
        angles = torch.cat((angles, angles), dim=-1)[:, :, None]
        return (angles.cos() * self._rope_scale).to(dtype), (angles.sin() * self._rope_scale).to(dtype)


class Backbone(nn.Module):
    """Embedding, layers and final norm: everything under Hugging Face's prefix `model.`."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)


def rope_frequencies(config: Any) -> tuple[Tensor, float]:
    """Return the inverse frequencies [D / 2] float32 and the scale of cosines and sines."""
    kind = config.rope_parameters["rope_type"]
    if kind != "default":
        frequencies, scale = ROPE_INIT_FUNCTIONS[kind](config, torch.device("cpu"))
        return frequencies, float(scale)
    size = head_size(config)
    # Not a buffer: casting the network to bfloat16 must not round the frequencies.
    return 1.0 / config.rope_parameters["rope_theta"] ** (torch.arange(0, size, 2).float() / size), 1.0
