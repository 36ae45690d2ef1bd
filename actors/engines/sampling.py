"""Drawing tokens: counter-based random numbers and an inverse cumulative distribution in float64.

Each row is computed alone, so that a request's tokens never depend on the other rows.

Dimensions: S slots, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["Draw", "SamplingRows", "drawn_logprobs", "sample", "streams", "uniforms"]

GOLDEN = np.uint64(0x9E3779B97F4A7C15)


@dataclass(slots=True)
class SamplingRows:
    """How each slot draws. The flags say whether any row needs the slower steps."""

    temperature: Tensor
    """[S] float64; 0 is greedy."""
    top_k: Tensor
    """[S] long; 0 keeps the whole vocabulary."""
    top_p: Tensor
    """[S] float64"""
    any_greedy: bool
    any_filter: bool


class Draw(NamedTuple):
    """One token per slot."""

    tokens: Tensor  # [S] long
    logprobs: Tensor  # [S] float64, nats, of the distribution drawn from; greedy: at temperature 1


def mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return splitmix64's output function of each state. Source: Steele et al., OOPSLA 2014, fig. 15 (variant 13)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def streams(seed: int, keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return the random stream of each request key [S] under an engine's seed."""
    # The key is mixed before a counter is added: neighbouring keys must not share shifted streams.
    return mix(keys + mix(np.array([seed & 0xFFFFFFFFFFFFFFFF], dtype=np.uint64) + GOLDEN))


def uniforms(seed: int, keys: NDArray[np.uint64], counters: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return one number in [0, 1 - 2^-52] per row, a pure function of (seed, key, counter).

    Args:
      seed: of the engine.
      keys: [S] of the requests.
      counters: [S] token index within the request, from 0.
    """
    bits = mix(streams(seed, keys) + (counters.astype(np.uint64) + np.uint64(1)) * GOLDEN)
    # 52 bits, not 53: then u * total < total also after rounding, and the search below stays in range.
    return (bits >> np.uint64(12)).astype(np.float64) * 2.0**-52


def sample(logits: Tensor, rows: SamplingRows, uniform: Tensor) -> Draw:
    """Draw one token per row.

    Args:
      logits: [S, V] float.
      rows: temperature, then top-k, then top-p, as Hugging Face orders them.
      uniform: [S] float64 in [0, 1).

    Returns:
      Tokens and log-probabilities; a row with NaN or infinite logits has a NaN log-probability.
    """
    weights = likelihoods(logits, rows)
    cumulative = weights.cumsum(-1)
    total = cumulative[:, -1]
    tokens = torch.searchsorted(cumulative, (uniform * total)[:, None], right=True)[:, 0]
    if rows.any_greedy:
        tokens = torch.where(rows.temperature > 0, tokens, logits.argmax(-1))
    # NaN logits put the search past the end; the clamp keeps it in range and the log-probability is NaN.
    tokens = tokens.clamp_(max=logits.shape[-1] - 1)
    return Draw(tokens, (weights.gather(-1, tokens[:, None])[:, 0] / total).log())


def drawn_logprobs(logits: Tensor, rows: SamplingRows, tokens: Tensor) -> Tensor:
    """Return [S] float64, nats: the log-probability that `sample` would report for each of `tokens` [S]."""
    weights = likelihoods(logits, rows)
    return (weights.gather(-1, tokens[:, None])[:, 0] / weights.sum(-1)).log()


def likelihoods(logits: Tensor, rows: SamplingRows) -> Tensor:
    """Return [S, V] float64, the probability of each token up to a factor per row; 0 where it is excluded."""
    scale = torch.where(rows.temperature > 0, rows.temperature, 1.0) if rows.any_greedy else rows.temperature
    probabilities = (logits.double() / scale[:, None]).softmax(-1)
    return keep_likely(probabilities, rows) if rows.any_filter else probabilities


def keep_likely(probabilities: Tensor, rows: SamplingRows) -> Tensor:
    """Zero what top-k and top-p exclude; other entries keep their bits, and greedy rows are left alone."""
    ordered, order = probabilities.sort(stable=True, dim=-1, descending=True)
    ranks = torch.arange(probabilities.shape[-1], device=probabilities.device)
    greedy = (rows.temperature == 0)[:, None]
    kept = (ranks < rows.top_k[:, None]) | (rows.top_k[:, None] == 0)
    within_k = torch.where(kept, ordered, 0.0)
    before = within_k.cumsum(-1) - within_k
    # A token stays while the mass before it is below top_p; rounding must not touch rows with top_p = 1.
    nucleus = before < rows.top_p[:, None] * within_k.sum(-1, keepdim=True)
    kept = (kept & (nucleus | (rows.top_p[:, None] >= 1))) | greedy
    return torch.where(torch.zeros_like(kept).scatter_(-1, order, kept), probabilities, 0.0)
