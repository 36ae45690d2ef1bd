"""Keeping the samples of a group on which process and outcome agree.

Dimensions: n samples of a group, H steps of a sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import ClassVar

from buffers.filters import Filter
from buffers.groups import Row
from buffers.scores import Score

__all__ = ["ProcessConsistency", "balanced", "consistencies"]


@dataclass(frozen=True, kw_only=True)
class ProcessConsistency(Filter):
    """Keeps `keep` samples of a group: right ones with good steps, wrong ones with bad steps.

    The step scores choose, and never enter the loss. A right sample is one whose `outcome` exceeds `threshold`.
    Samples without step scores, and fewer than `keep`, are kept as they are.

    Source: PROF, arXiv:2509.03403 Algorithm 1 (variant "both").
    """

    surplus_reason: ClassVar[str] = "inconsistent"

    outcome: str
    """Component that says what is right."""
    process: str
    """Component with one value per step, scored at arrival."""
    keep: int
    """m; of 8 samples 4, of 16 samples 8 in the paper."""
    threshold: float = 0.5
    penalty: float = 10.0
    """lambda: sends samples that are one step, or too many, to where they are left out."""
    max_steps: int = 30
    """H_lambda"""

    def __post_init__(self) -> None:
        if self.keep < 1:
            raise ValueError(f"keep is {self.keep}; it must be >= 1; half of num_generations is usual")

    def surplus(self, rows: Sequence[Row]) -> list[Row]:
        """Return the rows that are left out."""
        steps = [_steps(row.scores.get(self.process)) for row in rows]
        outcomes = [score.value if (score := row.scores.get(self.outcome)) else None for row in rows]
        if len(rows) <= self.keep or not all(steps) or None in outcomes:
            return []
        right = [value is not None and value > self.threshold for value in outcomes]
        found = consistencies(steps, right, penalty=self.penalty, max_steps=self.max_steps)
        kept = set(balanced(found, right, self.keep))
        return [row for place, row in enumerate(rows) if place not in kept]


def consistencies(
    steps: Sequence[Sequence[float]], right: Sequence[bool], *, penalty: float, max_steps: int
) -> list[float]:
    """Return [n] mean step score, less `penalty` times the outcome (+1, -1) where the steps cannot be trusted.

    Source: arXiv:2509.03403 eq. 3.
    """
    odd = [len(scores) == 1 or len(scores) >= max_steps for scores in steps]
    signs = [1.0 if ok else -1.0 for ok in right]
    return [fmean(s) - penalty * o * sign for s, o, sign in zip(steps, odd, signs, strict=True)]


def balanced(consistency: Sequence[float], right: Sequence[bool], keep: int) -> list[int]:
    """Return the `keep` samples, ascending: as many right as wrong ones, as far as there are; the most consistent.

    Source: arXiv:2509.03403 Algorithm 1.
    """
    good = sorted((i for i, ok in enumerate(right) if ok), key=lambda i: (-consistency[i], i))
    bad = sorted((i for i, ok in enumerate(right) if not ok), key=lambda i: (consistency[i], i))
    # Of splits of `keep` the one with the largest product is the most even one that both classes allow.
    few = min(len(bad), max(keep // 2, keep - len(good)))
    return sorted([*good[: keep - few], *bad[:few]])


def _steps(score: Score | None) -> tuple[float, ...]:
    return score.span_values if score is not None else ()
