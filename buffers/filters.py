"""Filters look at a complete group: they drop it, and admission refills the batch, or leave some of it out.

To add one: a frozen dataclass that is a `Filter`, and a line in `FILTERS`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import ClassVar

from buffers.groups import Row

__all__ = ["FILTERS", "Filter", "MeanRange", "ZeroVariance"]


class Filter:
    """Base of filters; each method by itself keeps everything."""

    surplus_reason: ClassVar[str] = "left_out"
    """What the ledger says of single samples that are left out."""

    def reason(self, rewards: Sequence[float]) -> str | None:
        """Return why a group with these rewards is dropped, or None to keep it."""
        return None

    def surplus(self, rows: Sequence[Row]) -> Sequence[Row]:
        """Return the rows of a group, all with a reward, that are left out of baseline and loss."""
        return ()


@dataclass(frozen=True, kw_only=True)
class ZeroVariance(Filter):
    """Drops groups whose rewards are all equal: they carry no advantage.

    Source: DAPO, arXiv:2503.14476 sec. 3.2 (dynamic sampling).
    """

    tolerance: float = 1e-8

    def reason(self, rewards: Sequence[float]) -> str | None:
        return "zero_variance" if max(rewards) - min(rewards) <= self.tolerance else None


@dataclass(frozen=True, kw_only=True)
class MeanRange(Filter):
    """Drops groups whose mean reward lies outside [low, high]: their task is too hard or too easy by now.

    Source: PRIME's online prompt filter, arXiv:2502.01456 sec. 3.3 (accuracies of 0.2 to 0.8).
    """

    low: float = 0.2
    high: float = 0.8

    def __post_init__(self) -> None:
        if not self.low <= self.high:
            raise ValueError(f"low is {self.low} and high {self.high}; low must not exceed high; 0.2 and 0.8 are usual")

    def reason(self, rewards: Sequence[float]) -> str | None:
        mean = fmean(rewards)
        return None if self.low <= mean <= self.high else ("too_easy" if mean > self.high else "too_hard")


FILTERS = {
    "mean_range": "buffers.filters:MeanRange",
    "process_consistency": "buffers.consistency:ProcessConsistency",
    "zero_variance": "buffers.filters:ZeroVariance",
}
