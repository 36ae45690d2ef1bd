"""Rewards for tests: one step per character, worth something where it is a seven; and what the policy says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from buffers.scores import Sample, Score
from buffers.trajectory import Span
from rewards.base import Component
from rewards.policy import Policy


class Sevens(Component):
    """Share of sevens, and of each character 1.0 where it is one, at its token.

    Source: this test.
    """

    needs = frozenset({"tokens"})

    def score(self, samples: Sequence[Sample]) -> list[Score]:
        return [self._score(sample) for sample in samples]

    def _score(self, sample: Sample) -> Score:
        start = len(sample.tokens) - sample.num_tokens
        marks = tuple(float(character == "7") for character in sample.completion)
        spans = tuple(Span("step", start + i, start + i + 1) for i in range(len(marks)))
        return Score(value=sum(marks) / max(len(marks), 1), span_values=marks, spans=spans)


@dataclass(frozen=True, kw_only=True)
class Remembered(Component):
    """Largest difference, in nats, between what the policy says of the sampled tokens now and what it said then.

    Source: this test.
    """

    policy: Policy
    needs = frozenset({"tokens", "logprobs", "policy"})

    async def score(self, samples: Sequence[Sample]) -> list[Score]:
        said = await self.policy.logprobs([sample.tokens for sample in samples])
        return [
            Score(value=float(np.abs(now[-s.num_tokens :] - s.logprobs[-s.num_tokens :]).max()), version=said.version)
            for s, now in zip(samples, said.logprobs, strict=True)
        ]
