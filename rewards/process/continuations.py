"""Continuing a prefix with a hosted model. Dimensions: n continuations, V vocabulary."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import xxhash
from torch import Tensor

from rewards.process.hosted import HostedModel

__all__ = ["continuations"]


@torch.no_grad()
def continuations(
    model: HostedModel, prefix: Sequence[int], *, count: int, max_tokens: int, temperature: float, seed: int
) -> list[list[int]]:
    """Return `count` samples of what the model writes behind a prefix, without the eos token that ends them.

    The same prefix and seed give the same samples.

    Args:
      prefix: at least one token.
      max_tokens: at which a sample is cut off.
      temperature: > 0.
    """
    network, eos = model.network, model.tokenizer.eos_token_id
    digest = xxhash.xxh3_64_intdigest(np.asarray(prefix, np.int64).tobytes(), seed=seed)
    generator = torch.Generator().manual_seed(digest >> 1)
    cache = network.new_cache(count, len(prefix) + max_tokens)
    tokens = torch.tensor([list(prefix)] * count, device=next(network.parameters()).device)
    positions = torch.arange(len(prefix), device=tokens.device).expand(count, -1)
    written: list[Tensor] = []
    done = torch.zeros(count, dtype=torch.bool)
    while len(written) < max_tokens and not done.all():
        hidden = network.decode(tokens, positions, cache)[:, -1]
        weights = (network.logits(hidden).float().cpu() / temperature).softmax(-1)
        drawn = torch.multinomial(weights, 1, generator=generator)
        written.append(drawn[:, 0])
        done |= drawn[:, 0] == eos
        tokens, positions = drawn.to(tokens.device), positions[:, -1:] + 1
    rows = torch.stack(written, 1).tolist() if written else [[] for _ in range(count)]
    return [row[: row.index(eos)] if eos in row else row for row in rows]
