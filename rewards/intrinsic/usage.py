"""How much of what is scored has labels, and how long a label takes to be felt."""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Collection

from rewards.intrinsic.met import Met

__all__ = ["Usage"]

RECENT_MESSAGES = 256
RECENT_LABELS = 1024


class Usage:
    """Coverage and reward lag, over the latest messages of scorers and the latest labels."""

    def __init__(self, labelled: Collection[str]) -> None:
        """Measure against the captions in `labelled`; looked at, never copied."""
        self._labelled = labelled
        self._coverage: deque[tuple[int, int]] = deque(maxlen=RECENT_MESSAGES)
        self._lags_s: deque[float] = deque(maxlen=RECENT_LABELS)
        self._arrived: list[float] = []
        self._unused: dict[int, list[float]] = {}

    def labelled(self, count: int, time: float) -> None:
        """Labels arrived."""
        self._arrived += [time] * count

    def covered(self) -> list[float]:
        """Return, and forget, the arrival times of labels that the update about to begin will know."""
        times, self._arrived = self._arrived, []
        return times

    def published(self, version: int, covered: list[float]) -> None:
        """A version that learned from labels of these times is there."""
        self._unused[version] = covered
        while len(self._unused) > RECENT_LABELS:
            del self._unused[next(iter(self._unused))]

    def met(self, met: Met) -> None:
        """A scorer sent what it met, and which versions it used first."""
        if met.captions:
            known = sum(count for caption, count in met.captions.items() if caption in self._labelled)
            self._coverage.append((known, sum(met.captions.values())))
        for version, time in met.used.items():
            # A label that came into an earlier version is first felt here, where no scorer had that one in use.
            for earlier in [v for v in self._unused if v <= version]:
                self._lags_s.extend(time - arrived for arrived in self._unused.pop(earlier))

    def figures(self) -> dict[str, float]:
        """Return coverage and reward_lag_p50_s, each once it is known."""
        figures = {}
        if self._coverage:
            known, total = map(sum, zip(*self._coverage, strict=True))
            figures["coverage"] = known / total
        if self._lags_s:
            figures["reward_lag_p50_s"] = statistics.median(self._lags_s)
        return figures
