"""How much work the members of a pool have, and how long work waits for one of them.

    LoadMeter (one for each queue, where the queue is) -> Report, in the answer to a heartbeat -> supervisor
    -> pool_figures: one set of figures for each pool, in `status`, in the metrics and for whoever scales it

The answer to a `ping` may hold `"load": {pool: Report}`. It names the pool, since a queue can be elsewhere than
those who serve it: captions wait for annotators in the reward learner, batches for the learner in the buffer.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass

__all__ = ["LoadMeter", "Report", "loads", "pool_figures"]

WINDOW_S = 30.0
"""Seconds that figures look back."""
KEPT = 256
"""Waits that a report holds at most; of more, the newest."""


@dataclass(frozen=True, slots=True)
class Report:
    """What one process knows of a pool's work, over the last WINDOW_S seconds."""

    waiting: int = 0
    """Pieces of work that nobody has begun."""
    waits_s: tuple[float, ...] = ()
    """Seconds that work waited, that which still waits included: a queue that stands still shows."""
    busy_s: float = 0.0
    """Seconds of work, summed over places."""
    room_s: float = 0.0
    """Seconds of work that there was room for: places times time; 0 where it is not known."""


class LoadMeter:
    """Follows work from its arrival to its begin, and how busy those are who do it.

    `report` may be called by another thread.
    """

    def __init__(
        self,
        busy_s: Callable[[], float] | None = None,
        places: int = 1,
        clock: Callable[[], float] = lambda: asyncio.get_running_loop().time(),
    ) -> None:
        """Measure a queue.

        Args:
          busy_s: seconds of work since the start, summed over places; None where nobody works here.
          places: pieces of work that can be done at a time.
          clock: seconds; by default the running loop's.
        """
        self._busy_s, self._places = busy_s, places
        self._clock = clock
        self._waiting: dict[Hashable, float] = {}
        self._waits: deque[tuple[float, float]] = deque(maxlen=KEPT)  # (when it ended, seconds)
        self._worked: deque[tuple[float, float]] = deque()  # (when, busy seconds until then)

    def came(self, work: Hashable) -> None:
        """A piece of work waits from now on."""
        self._waiting.setdefault(work, self._clock())

    def begun(self, work: Hashable) -> None:
        """Somebody does it now; one that never came is fine."""
        if (since := self._waiting.pop(work, None)) is not None:
            now = self._clock()
            self._waits.append((now, now - since))

    def gone(self, work: Hashable) -> None:
        """It left without having been begun."""
        self._waiting.pop(work, None)

    def report(self) -> Report:
        """Return how things stand."""
        now = self._clock()
        # Copies are made in one step each: the loop goes on beside a heartbeat's thread.
        waiting, ended = list(self._waiting.values()), list(self._waits)
        waits = [wait for when, wait in ended if when > now - WINDOW_S]
        waits += [now - since for since in waiting]
        busy, room = self._work(now)
        return Report(waiting=len(waiting), waits_s=tuple(waits[-KEPT:]), busy_s=busy, room_s=room)

    def _work(self, now: float) -> tuple[float, float]:
        if self._busy_s is None:
            return 0.0, 0.0
        self._worked.append((now, self._busy_s()))
        while len(self._worked) > 2 and self._worked[1][0] <= now - WINDOW_S:
            self._worked.popleft()
        (began, before), (_, after) = self._worked[0], self._worked[-1]
        return after - before, self._places * (now - began)


def loads(answers: Iterable[Mapping[str, object]]) -> dict[str, list[Report]]:
    """Return pool -> reports on it, from answers to heartbeats."""
    found: dict[str, list[Report]] = {}
    for answer in answers:
        told = answer.get("load")
        for pool, report in told.items() if isinstance(told, Mapping) else ():
            found.setdefault(pool, []).append(report)
    return found


def pool_figures(reports: Iterable[Report]) -> dict[str, float]:
    """Return what several reports say of one pool; what none of them knows is left out.

    waiting                  pieces of work that nobody has begun
    queue_p50_s, queue_p95_s seconds that work waited; 0 where none did
    busy                     share of the places in use
    """
    told = list(reports)
    if not told:
        return {}
    waits, room_s = sorted(wait for report in told for wait in report.waits_s), sum(r.room_s for r in told)
    figures = {
        "waiting": float(sum(report.waiting for report in told)),
        "queue_p50_s": _percentile(waits, 0.50),
        "queue_p95_s": _percentile(waits, 0.95),
    }
    return figures | ({"busy": min(1.0, sum(r.busy_s for r in told) / room_s)} if room_s > 0 else {})


def _percentile(ranked: list[float], share: float) -> float:
    return ranked[min(len(ranked) - 1, int(share * len(ranked)))] if ranked else 0.0
