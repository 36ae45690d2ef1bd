"""Penalties on repeating oneself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from buffers.scores import Sample, Score
from configs.errors import nearest
from rewards.base import Component

__all__ = ["RepetitionPenalty", "distinct_share", "repeated_share"]


@dataclass(frozen=True, kw_only=True)
class RepetitionPenalty(Component):
    """`penalty` times how much of the completion's words repeats itself, by n-grams; 0.0 for fewer than n words.

    measure distinct: 1 - distinct n-grams / n-grams. measure covered: the share of words that lie in an n-gram
    which has occurred before, so that one long copy weighs by its length.

        component: {target: repetition_penalty, ngram: 3}

    Source: distinct, the repetition reward of Open R1 (github.com/huggingface/open-r1); covered, the N-gram
    repetition penalty of arXiv:2502.03373, as a share of the completion.
    """

    ngram: int = 3
    """Words."""
    measure: str = "distinct"
    penalty: float = -1.0

    def __post_init__(self) -> None:
        if self.ngram < 1:
            raise ValueError(f"ngram is {self.ngram}; it must be >= 1 word; try 3")
        if not -1e6 <= self.penalty <= 0:
            raise ValueError(f"penalty is {self.penalty}; it must lie in [-1e6, 0]; try -1")
        if self.measure not in _MEASURES:
            raise ValueError(f"measure is {self.measure!r}, which is none{nearest(self.measure, _MEASURES)}")

    def score(self, samples: Sequence[Sample]) -> list[Score]:
        return [self._judge(_ngrams(sample.completion.lower().split(), self.ngram)) for sample in samples]

    def _judge(self, grams: Sequence[tuple[str, ...]]) -> Score:
        return Score(value=self.penalty * _MEASURES[self.measure](grams) if grams else 0.0)


def distinct_share(grams: Sequence[tuple[str, ...]]) -> float:
    """Return 1 - distinct n-grams / n-grams."""
    return 1 - len(set(grams)) / len(grams)


def repeated_share(grams: Sequence[tuple[str, ...]]) -> float:
    """Return the share of words, n - 1 more than n-grams, that lie in an n-gram which has occurred before."""
    seen: set[tuple[str, ...]] = set()
    length, covered, end = len(grams[0]), 0, 0
    for start, gram in enumerate(grams):
        if gram in seen:
            covered += start + length - max(start, end)
            end = start + length
        seen.add(gram)
    return covered / (len(grams) + length - 1)


def _ngrams(words: Sequence[str], length: int) -> list[tuple[str, ...]]:
    return list(zip(*(words[i:] for i in range(min(length, len(words) + 1))), strict=False))


_MEASURES = {"distinct": distinct_share, "covered": repeated_share}
