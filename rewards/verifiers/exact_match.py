"""Reward for repeating the reference answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from buffers.scores import Sample, Score, ScoreStatus
from rewards.base import Component

__all__ = ["ExactMatch"]


@dataclass(frozen=True, kw_only=True)
class ExactMatch(Component):
    """1.0 where the completion equals the reference answer, else 0.0; abstains without a reference.

        component: {target: exact_match, ignore_case: true}

    Source: the exact-match metric of SQuAD, arXiv:1606.05250, without its normalisation.
    """

    strip: bool = True
    """Ignore white space around both texts."""
    ignore_case: bool = False
    last_line: bool = False
    """Compare the last lines of both texts alone, for instance `#### 72`; how they are arrived at is free."""

    def score(self, samples: Sequence[Sample]) -> list[Score]:
        return [self._judge(sample) for sample in samples]

    def _judge(self, sample: Sample) -> Score:
        if not sample.answer:
            return Score.invalid(ScoreStatus.ABSTAINED, f"{sample.id} has no reference answer")
        return Score(value=float(self._normal(sample.completion) == self._normal(sample.answer)))

    def _normal(self, text: str) -> str:
        text = text.rstrip().rpartition("\n")[2] if self.last_line else text
        text = text.strip() if self.strip else text
        return text.casefold() if self.ignore_case else text
