"""Counters of one reward server."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable

from buffers.scores import Score, ScoreStatus

__all__ = ["ServerCounters"]

RECENT_CALLS = 1024
"""Calls whose latencies the percentiles describe."""


class ServerCounters:
    """Counts calls and verdicts since the server started."""

    def __init__(self) -> None:
        self.calls = 0
        self.failed_calls = 0
        self._statuses: Counter[str] = Counter()
        self._latencies_s: deque[float] = deque(maxlen=RECENT_CALLS)

    def call(self, succeeded: bool, latency_s: float) -> None:
        """Count one call of the component."""
        self.calls += 1
        self.failed_calls += not succeeded
        self._latencies_s.append(latency_s)

    def verdicts(self, scores: Iterable[Score]) -> None:
        """Count final scores."""
        self._statuses.update(score.status.value for score in scores)

    def snapshot(self) -> dict[str, float]:
        """Return calls, items, items per status, and latency percentiles in seconds."""
        ordered = sorted(self._latencies_s)
        return {
            "calls": self.calls,
            "failed_calls": self.failed_calls,
            "items": self._statuses.total(),
            **{status.value: self._statuses[status.value] for status in ScoreStatus},
            "latency_p50_s": _percentile(ordered, 0.50),
            "latency_p95_s": _percentile(ordered, 0.95),
        }


def _percentile(ordered: list[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0
