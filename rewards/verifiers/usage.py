"""What a trajectory has cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from buffers.scores import Sample, Score
from rewards.base import Component

__all__ = ["Usage"]

PRICED_TOKENS = 1_000_000


@dataclass(frozen=True, kw_only=True)
class Usage(Component):
    """Minus the price of a sample's sampled tokens and tool calls; the vector holds both counts.

        component: {target: usage, token_price: 0.6, call_price: 0.0001}
        weight: 0.0  # read by gated_cost or preferences

    Source: the priced calls of Router-R1, arXiv:2506.09033, and of ToolOrchestra, arXiv:2511.21689.
    """

    token_price: float = 0.0
    """Of a million sampled tokens."""
    call_price: float = 0.0
    """Of a tool call: a span called "tool"."""

    def __post_init__(self) -> None:
        if not (self.token_price >= 0 and self.call_price >= 0 and self.token_price + self.call_price > 0):
            given = f"token_price and call_price are {self.token_price} and {self.call_price}"
            raise ValueError(f"{given}; they must be >= 0, and one of them > 0; try 1.0 and 0.0")

    def score(self, samples: Sequence[Sample]) -> list[Score]:
        return [self._score(sample) for sample in samples]

    def _score(self, sample: Sample) -> Score:
        calls = sum(span.kind == "tool" for span in sample.spans)
        price = self.token_price * sample.num_tokens / PRICED_TOKENS + self.call_price * calls
        return Score(value=-price, vector=(float(sample.num_tokens), float(calls)))
