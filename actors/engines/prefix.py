"""Prefill: each distinct prompt is run once, and its keys and values are copied into every slot that asks.

Prompts run in calls of a fixed shape, ROWS x `chunk` tokens over the full cache length, so that a
prompt's cache has the same bits whichever prompts run beside it. A prefill also leaves the logits of
the first token to be sampled, so that a request draws it as soon as it has a slot.

Dimensions: ROWS prompts, C tokens of one chunk, W tokens of all chunks, H hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from learners.models.cache import KeyValueCache, Network

__all__ = ["ROWS", "PrefixCache"]

ROWS = 16
BLOCKS = 4

Prompt = tuple[int, ...]


class Block(NamedTuple):
    """The prefilled state of ROWS prompts."""

    cache: KeyValueCache
    logits: Tensor  # [ROWS, V] of the token after each prompt


class PrefixCache:
    """A ring of blocks of ROWS prompts, all prefilled with the current weights."""

    def __init__(self, network: Network, length: int, chunk: int, device: torch.device) -> None:
        self._network = network
        self._chunk = chunk
        self._device = device
        vocabulary = int(network.config.vocab_size)
        self._blocks = [
            Block(network.new_cache(ROWS, length), torch.zeros(ROWS, vocabulary, device=device)) for _ in range(BLOCKS)
        ]
        self._next = 0
        self._places: dict[Prompt, tuple[int, int]] = {}
        """prompt -> (block, row)"""

    def __contains__(self, prompt: Prompt) -> bool:
        return prompt in self._places

    def clear(self) -> None:
        """Forget everything: the weights changed."""
        self._places.clear()

    def prefill(self, prompts: Sequence[Prompt]) -> int:
        """Run at most ROWS distinct prompts in place of the oldest block; return their tokens."""
        index = self._next
        self._next = (index + 1) % BLOCKS
        self._places = {p: place for p, place in self._places.items() if place[0] != index}
        block, hidden = self._blocks[index], self._run(prompts, self._blocks[index].cache)
        last = torch.zeros(ROWS, dtype=torch.long)
        last[: len(prompts)] = torch.tensor([len(p) - 1 for p in prompts])
        ends = hidden[torch.arange(ROWS, device=self._device), last.to(self._device)]
        block.logits.copy_(self._network.logits(ends))
        self._places.update({prompt: (index, row) for row, prompt in enumerate(prompts)})
        return sum(map(len, prompts))

    def copy(self, placements: Sequence[tuple[int, Prompt]], cache: KeyValueCache, logits: Tensor) -> None:
        """Copy the prefilled state of each (slot, prompt) into its slot of `cache` and of `logits` [S, V]."""
        by_block: dict[int, list[tuple[int, int, int]]] = {}
        for slot, prompt in placements:
            block, row = self._places[prompt]
            by_block.setdefault(block, []).append((slot, row, len(prompt)))
        for block, moves in by_block.items():
            slots, rows, lengths = zip(*moves, strict=True)
            to, origin = torch.tensor(slots, device=self._device), torch.tensor(rows, device=self._device)
            cache.copy_rows(to, self._blocks[block].cache, origin, max(lengths))
            logits[to] = self._blocks[block].logits[origin]

    def _run(self, prompts: Sequence[Prompt], cache: KeyValueCache) -> Tensor:
        """Return the hidden states [ROWS, W, H] of padded prompts, and fill `cache`."""
        chunks = -(-max(map(len, prompts)) // self._chunk)
        padded = torch.zeros(ROWS, chunks * self._chunk, dtype=torch.long)
        for row, prompt in enumerate(prompts):
            padded[row, : len(prompt)] = torch.tensor(prompt)
        tokens = padded.to(self._device).split(self._chunk, 1)
        positions = torch.arange(padded.shape[1], device=self._device).expand(ROWS, -1).split(self._chunk, 1)
        # Padding writes garbage after a prompt; decoding overwrites each entry before looking at it.
        return torch.cat([self._network.decode(t, p, cache) for t, p in zip(tokens, positions, strict=True)], 1)
