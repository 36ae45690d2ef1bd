"""Filters look at a complete group and may drop it; admission then refills the batch.

To add one: a frozen dataclass with `reason(rewards) -> str | None`, and a line in `FILTERS`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

__all__ = ["FILTERS", "Filter", "ZeroVariance"]


class Filter(Protocol):
    def reason(self, rewards: Sequence[float]) -> str | None:
        """Return why a group with these rewards is dropped, or None to keep it."""
        ...


@dataclass(frozen=True, kw_only=True)
class ZeroVariance:
    """Drops groups whose rewards are all equal: they carry no advantage.

    Source: DAPO, arXiv:2503.14476 sec. 3.2 (dynamic sampling).
    """

    tolerance: float = 1e-8

    def reason(self, rewards: Sequence[float]) -> str | None:
        return "zero_variance" if max(rewards) - min(rewards) <= self.tolerance else None


FILTERS = {"zero_variance": "buffers.filters:ZeroVariance"}
