"""Any Hugging Face causal language model behind the interface of the native network.

Dimensions: B or R rows, T or C tokens, L cache length, H hidden size, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache, CacheLayerMixin
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import AttentionInterface

from configs.errors import DataError
from learners.models.cache import KeyValueCache, Places
from learners.models.visibility import BlockMask, Mask, block_attention

__all__ = ["TransformersNetwork"]

ATTENTION = "headrace"
"""The name of `attend` among transformers' attention functions."""


class TransformersNetwork(nn.Module):
    """`AutoModelForCausalLM` with explicit positions, masks and a static cache."""

    def __init__(self, model: Any) -> None:
        """Wrap a loaded model.

        Raises:
          DataError: its logits are not its output embedding times its last hidden state.
        """
        super().__init__()
        for name, child in model.named_children():
            self.add_module(name, child)
        # In a tuple, so that nn.Module does not register it and weights keep their Hugging Face names.
        self._wrapped = (model,)
        self.config = model.config
        model.set_attn_implementation(ATTENTION)
        self._check_head()

    def forward(self, tokens: Tensor, positions: Tensor, mask: Mask = None) -> Tensor:
        """Return hidden states after the final norm.

        Args:
          tokens: [B, T] long.
          positions: [B, T] long.
          mask: which keys a query sees.

        Returns:
          [B, T, H]
        """
        if isinstance(mask, BlockMask):
            return self._run(tokens, positions, mask, None)
        if mask is None:
            width = tokens.shape[1]
            mask = torch.ones(width, width, dtype=torch.bool, device=tokens.device).tril().expand(len(tokens), -1, -1)
        additive = torch.zeros(mask.shape, device=mask.device, dtype=self._dtype)
        # Not -inf: a padded query that may attend to nothing must stay finite.
        additive.masked_fill_(~mask, torch.finfo(self._dtype).min)
        return self._run(tokens, positions, additive[:, None], None)

    def decode(self, tokens: Tensor, positions: Tensor, cache: KeyValueCache) -> Tensor:
        """Append tokens [R, C] at `positions` [R, C] to the cache; return their hidden states [R, C, H]."""
        places = cache.places(positions)
        layers = [SlotLayer(cache, index, places) for index in range(len(cache.entries))]
        return self._run(tokens, positions, places.mask, Cache(layers=layers))

    def logits(self, hidden: Tensor) -> Tensor:
        """Return [..., V] logits of [..., H] hidden states."""
        head = self._wrapped[0].get_output_embeddings()
        return head(hidden)

    def new_cache(self, rows: int, length: int) -> KeyValueCache:
        """Return an empty cache of `rows` rows and `length` positions on the network's device."""
        config = self.config.get_text_config()
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        return KeyValueCache(config.num_hidden_layers, rows, heads, length, size, next(self.parameters()))

    def prepare_decoding(self) -> None:
        """Do nothing: the wrapped model decodes with the weights as they are."""

    def named_weights(self) -> dict[str, Tensor]:
        """Return every weight under its Hugging Face name; tied embeddings appear once."""
        return dict(self.named_parameters())

    @property
    def _dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype

    def _run(self, tokens: Tensor, positions: Tensor, mask: Tensor | BlockMask, cache: Cache | None) -> Tensor:
        output = self._wrapped[0].base_model(
            input_ids=tokens,
            position_ids=positions,
            attention_mask=mask,
            past_key_values=cache,
            use_cache=cache is not None,
        )
        return output.last_hidden_state

    @torch.no_grad()
    def _check_head(self) -> None:
        model = self._wrapped[0].eval()
        tokens = torch.zeros(1, 2, dtype=torch.long, device=next(self.parameters()).device)
        positions = torch.arange(2, device=tokens.device)[None]
        ours, theirs = self.logits(self.forward(tokens, positions)), model(input_ids=tokens).logits
        if not torch.allclose(ours, theirs, rtol=1e-3, atol=1e-3):
            raise DataError(
                f"{self.config.model_type} rescales or caps its logits, which TransformersNetwork does not reproduce;"
                " use a model whose logits are the output embedding of the last hidden state"
            )


def attend(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, **options: Any
) -> tuple[Tensor, None]:
    """Attend as SDPA does, or in blocks; in the form that transformers asks for."""
    if not isinstance(attention_mask, BlockMask):
        mixed, _ = sdpa_attention_forward(module, query, key, value, attention_mask, **options)
        return mixed, None
    return block_attention(query, key, value, attention_mask, options.get("scaling")).transpose(1, 2), None


AttentionInterface.register(ATTENTION, attend)


class SlotLayer(CacheLayerMixin):
    """One layer's view of a KeyValueCache, in the form that transformers' attention expects."""

    is_sliding = False

    def __init__(self, cache: KeyValueCache, index: int, places: Places) -> None:
        super().__init__()
        self.is_initialized = True
        self._cache, self._index, self._places = cache, index, places

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Do nothing: the cache is allocated by its owner."""

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Store [R, heads, C, D] states at this call's places; return everything cached."""
        keys, values = key_states.transpose(1, 2), value_states.transpose(1, 2)
        return self._cache.write(self._index, keys, values, self._places)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return (cache length, offset)."""
        return self._cache.length, 0

    def get_seq_length(self) -> int:
        """Return 0: rows have different lengths, and positions are always given."""
        return 0

    def get_max_length(self) -> int:
        """Return the cache length."""
        return self._cache.length
