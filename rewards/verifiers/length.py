"""Penalties on long completions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from buffers.scores import Sample, Score
from rewards.base import Component

__all__ = ["LengthPenalty", "SoftOverlong"]


@dataclass(frozen=True, kw_only=True)
class LengthPenalty(Component):
    """0.0 up to `target_tokens` sampled tokens, then -1.0 for each further `target_tokens`, linearly.

        component: {target: length_penalty, target_tokens: 200}

    Source: this project; for a penalty that saturates see `soft_overlong`.
    """

    target_tokens: int

    def __post_init__(self) -> None:
        if self.target_tokens < 1:
            raise ValueError(f"target_tokens is {self.target_tokens}; it must be >= 1; try half the context length")

    def score(self, samples: Sequence[Sample]) -> list[Score]:
        return [Score(value=min(0.0, 1.0 - sample.num_tokens / self.target_tokens)) for sample in samples]


@dataclass(frozen=True, kw_only=True)
class SoftOverlong(Component):
    """0.0 up to `max_completion_length - cache_tokens`, then linearly down to -1.0 at the maximum.

        component: {target: soft_overlong, max_completion_length: 2048, cache_tokens: 400}

    Source: the soft overlong punishment of DAPO, arXiv:2503.14476 eq. 13.
    """

    max_completion_length: int
    """L_max, tokens; beyond it the penalty stays -1.0."""
    cache_tokens: int
    """L_cache, tokens: the length of the slope."""

    def __post_init__(self) -> None:
        if not 1 <= self.cache_tokens <= self.max_completion_length:
            raise ValueError(
                f"cache_tokens is {self.cache_tokens}; it must lie in [1, max_completion_length="
                f"{self.max_completion_length}]; DAPO uses a fifth of the maximum"
            )

    def score(self, samples: Sequence[Sample]) -> list[Score]:
        start = self.max_completion_length - self.cache_tokens
        return [Score(value=max(-1.0, min(0.0, (start - s.num_tokens) / self.cache_tokens))) for s in samples]
