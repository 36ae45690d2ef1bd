"""The static key-value cache of a network, and the contract between networks and engines.

Dimensions: R rows (slots), C tokens of one call, L cache length, D head size, H hidden size, V vocabulary.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

__all__ = ["KeyValueCache", "Network", "Places"]


class Places(NamedTuple):
    """Where one call writes, and what it may see; the same for every layer."""

    flat: Tensor
    """[R * C * heads] long: row of the cache seen as [R * heads * L, D]"""
    mask: Tensor
    """[R, 1, C, L] float: 0 where a query may look, else -inf"""


class KeyValueCache:
    """Keys and values of R rows at fixed length L; entries past a row's position are garbage, and masked."""

    def __init__(self, layers: int, rows: int, heads: int, length: int, head_size: int, like: Tensor) -> None:
        """Allocate zeros of the device and dtype of `like`; `heads` counts key-value heads."""
        # [layers, 2 (keys, values), R, heads, L, D]: contiguous per layer, which the batched products need.
        self.entries = torch.zeros(layers, 2, rows, heads, length, head_size, device=like.device, dtype=like.dtype)
        self.length = length
        # First entry of each (row, head) in the flat view.
        self._starts = torch.arange(rows * heads, device=like.device).view(rows, 1, heads) * length
        self._columns = torch.arange(length, device=like.device)

    def places(self, positions: Tensor) -> Places:
        """Return the places of a call whose tokens stand at `positions` [R, C] and see all up to their own."""
        hidden = self._columns > positions[:, :, None]
        mask = torch.zeros(hidden.shape, device=hidden.device, dtype=self.entries.dtype)
        mask.masked_fill_(hidden, float("-inf"))
        return Places((self._starts + positions[:, :, None]).flatten(), mask[:, None])

    def write(self, layer: int, keys: Tensor, values: Tensor, places: Places) -> tuple[Tensor, Tensor]:
        """Store [R, C, heads, D] keys and values; return everything cached as [R, heads, L, D]."""
        size = keys.shape[-1]
        all_keys, all_values = self.entries[layer]
        # index_copy_ on a flat view is several times faster than indexed assignment here.
        all_keys.view(-1, size).index_copy_(0, places.flat, keys.reshape(-1, size))
        all_values.view(-1, size).index_copy_(0, places.flat, values.reshape(-1, size))
        return all_keys, all_values

    def copy_rows(self, rows: Tensor, source: KeyValueCache, source_rows: Tensor, length: int) -> None:
        """Copy the first `length` entries of `source_rows` [N] of another cache into `rows` [N] of this one."""
        self.entries[:, :, rows, :, :length] = source.entries[:, :, source_rows, :, :length]


class Network(Protocol):
    """What engines and learners ask of a network; `CausalDecoder` and `TransformersNetwork` answer."""

    config: Any

    def forward(self, tokens: Tensor, positions: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return final hidden states [B, T, H] of `tokens` [B, T]; `mask` [B, T, T] bool, None is causal."""
        ...

    def logits(self, hidden: Tensor) -> Tensor:
        """Return [..., V] logits of [..., H] hidden states."""
        ...

    def new_cache(self, rows: int, length: int) -> KeyValueCache:
        """Return an empty cache on the network's device."""
        ...

    def decode(self, tokens: Tensor, positions: Tensor, cache: KeyValueCache) -> Tensor:
        """Append `tokens` [R, C] at `positions` [R, C] to the cache; return their hidden states [R, C, H]."""
        ...

    def prepare_decoding(self) -> None:
        """Arrange the weights for `decode`; afterwards they change only in place."""
        ...

    def named_weights(self) -> dict[str, Tensor]:
        """Return every weight under its Hugging Face name, tied ones once."""
        ...
