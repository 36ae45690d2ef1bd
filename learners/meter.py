"""Throughput and idle shares, from counters that only grow."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["Meter"]


class Meter:
    """Turns a worker pool's counters into rates between two readings."""

    def __init__(self, now: float, unit: str = "perf/tokens_per_s") -> None:
        """Begin at `now`; `unit` is the metric of sampled tokens, or steps, per second."""
        self._unit = unit
        self._began = self._last = now
        self._busy: dict[str, float] = {}
        self.rollout_busy_s = 0.0
        self.rollout_lifetime_s = 0.0

    def read(
        self, now: float, workers: Mapping[str, Mapping[str, float]], *, samples: int, tokens: int, waited_s: float
    ) -> dict[str, float]:
        """Return metrics of the interval since the last reading.

        Args:
          now: seconds of a monotonic clock.
          workers: newest counters of each worker, `busy_s` among them; a new worker starts at 0.
          waited_s: seconds of the interval that the learner waited for a batch.
        """
        span = max(now - self._last, 1e-9)
        busy = sum(max(0.0, stats["busy_s"] - self._busy.get(name, 0.0)) for name, stats in workers.items())
        self._busy = {name: stats["busy_s"] for name, stats in workers.items()}
        self._last = now
        lifetime = span * max(len(workers), 1)
        self.rollout_busy_s += min(busy, lifetime)
        self.rollout_lifetime_s += lifetime
        return {
            "perf/throughput": samples / span,
            self._unit: tokens / span,
            "idle/learner": min(waited_s / span, 1.0),
            "idle/rollout": max(0.0, 1.0 - busy / lifetime),
            "time/total": span,
        }

    @property
    def rollout_idle(self) -> float:
        """Share of the pool's time, since the start, that its engines did not compute."""
        return 1.0 - self.rollout_busy_s / max(self.rollout_lifetime_s, 1e-9)
