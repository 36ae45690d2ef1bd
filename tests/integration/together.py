"""A reward that compares the samples of a prompt, and refuses to see less than all of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from buffers.scores import Sample, Score
from rewards.base import Component


@dataclass(frozen=True, kw_only=True)
class ShorterThanSiblings(Component):
    """The share of its group that a sample is shorter than."""

    num_generations: int
    scope: ClassVar[str] = "group"

    def score(self, samples: Sequence[Sample]) -> list[Score]:
        sizes = Counter(sample.group for sample in samples)
        if set(sizes.values()) != {self.num_generations}:
            raise ValueError(f"incomplete groups: {dict(sizes)}")
        return [Score(value=self._shorter(sample, samples)) for sample in samples]

    def _shorter(self, sample: Sample, samples: Sequence[Sample]) -> float:
        siblings = [other for other in samples if other.group == sample.group]
        return sum(other.num_tokens > sample.num_tokens for other in siblings) / len(siblings)
