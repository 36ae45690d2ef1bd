"""Scoring whole sequences: log-probabilities, entropies, top-k and hidden states.

Dimensions: ROWS sequences of one call, T tokens of a sequence, W padded width, H hidden size, K top-k, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from actors.engines.base import ScoredSequence
from learners.models.cache import Network

__all__ = ["score_sequences"]

ROWS = 16
NARROWEST = 16
WANTS = ("logprobs", "entropy", "topk", "hidden")


@torch.inference_mode()
def score_sequences(
    network: Network,
    version: int,
    sequences: Sequence[Sequence[int]],
    want: Sequence[str],
    topk: int,
    device: torch.device,
) -> list[ScoredSequence]:
    """Score sequences in calls of ROWS x W tokens, W the power of two that holds the sequence.

    W depends on the sequence alone, so its score does not depend on the others.

    Raises:
      ValueError: an unknown `want`, an empty sequence, or "topk" without `topk` >= 1.
    """
    if unknown := set(want) - set(WANTS):
        raise ValueError(f"want has {sorted(unknown)}; it may hold {', '.join(WANTS)}")
    if "topk" in want and topk < 1:
        raise ValueError(f"topk is {topk}; with want=topk it must be >= 1")
    if not all(sequences):
        raise ValueError("a sequence to score is empty; it must have at least one token")
    by_width: dict[int, list[int]] = {}
    for index, sequence in enumerate(sequences):
        width = max(NARROWEST, 1 << (len(sequence) - 1).bit_length())
        by_width.setdefault(width, []).append(index)
    results: dict[int, ScoredSequence] = {}
    for width, indices in by_width.items():
        for start in range(0, len(indices), ROWS):
            batch = indices[start : start + ROWS]
            hidden = run(network, [sequences[i] for i in batch], width, device)
            for row, i in enumerate(batch):
                results[i] = describe(network, hidden[row], sequences[i], version, want, topk)
    return [results[i] for i in range(len(sequences))]


def run(network: Network, sequences: Sequence[Sequence[int]], width: int, device: torch.device) -> Tensor:
    """Return hidden states [ROWS, W, H]; padding comes after the tokens, where causality hides it."""
    tokens = torch.zeros(ROWS, width, dtype=torch.long)
    for row, sequence in enumerate(sequences):
        tokens[row, : len(sequence)] = torch.tensor(sequence)
    positions = torch.arange(width, device=device).expand(ROWS, -1)
    return network.forward(tokens.to(device), positions)


def describe(
    network: Network, hidden: Tensor, sequence: Sequence[int], version: int, want: Sequence[str], topk: int
) -> ScoredSequence:
    """Turn the hidden states [W, H] of one sequence into its score; position 0 has no distribution."""
    count = len(sequence)
    logp = network.logits(hidden).float().log_softmax(-1)[: count - 1]
    targets = torch.tensor(sequence[1:], dtype=torch.long, device=hidden.device)
    result: dict[str, np.ndarray] = {"logprobs": after_first(logp.gather(-1, targets[:, None])[:, 0], 0.0)}
    if "entropy" in want:
        result["entropy"] = after_first(torch.special.entr(logp.exp()).sum(-1), 0.0)
    if "topk" in want:
        top = logp.topk(topk, dim=-1)
        result["topk_tokens"] = after_first(top.indices.int(), -1)
        result["topk_logprobs"] = after_first(top.values, 0.0)
    if "hidden" in want:
        result["hidden"] = hidden[:count].float().cpu().numpy()
    return ScoredSequence(version=version, **result)


def after_first(values: Tensor, first: float) -> np.ndarray:
    """Return [T - 1, ...] values as [T, ...], position 0 filled with `first`."""
    padding = values.new_full((1, *values.shape[1:]), first)
    return torch.cat([padding, values]).cpu().numpy()
