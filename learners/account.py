"""What the updates of this process came to: sums for the summary, and figures for whoever listens."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from buffers.messages import Ticket
from buffers.transport import Handle
from learners.meter import Meter
from learners.observing import Observer

__all__ = ["OBSERVE_S", "Account", "Listener", "Totals"]

OBSERVE_EVERY_S = 1.0
"""Shortest time between two questions for figures that only inform: a call costs a millisecond."""
OBSERVE_S = 5.0
"""Longest wait for figures that only inform."""


class Listener(Protocol):
    """Who hears of progress: the metrics files and the view."""

    def update(self, update: int, metrics: Mapping[str, float], pools: Mapping[str, int]) -> None: ...

    def waiting(self, update: int, metrics: Mapping[str, float]) -> None: ...

    def evaluation(self, update: int, result: Mapping[str, float]) -> None: ...

    def warning(self, text: str) -> None: ...


@dataclass
class Totals:
    """Sums over the updates of this process; seconds, samples, sampled tokens."""

    updates: int = 0
    samples: int = 0
    tokens: int = 0
    spanning: float = 0.0
    ages: Counter[int] = field(default_factory=Counter)
    """Staleness in versions -> trained samples; a list of them would take 25 MB an hour."""
    waited_s: float = 0.0
    pauses_s: list[float] = field(default_factory=list)
    began: float = 0.0
    """Loop time."""

    @property
    def wall_s(self) -> float:
        return asyncio.get_running_loop().time() - self.began


class Account:
    """Adds up updates, joins their figures with those of the services beside the stream, and tells the listener."""

    def __init__(
        self, listener: Listener, services: Mapping[str, Callable[[], Awaitable[Sequence[Handle]]]], *, rate: str
    ) -> None:
        """Open the account; `begin` starts its clock again.

        Args:
          services: prefix of metrics -> returns the services whose `stats` these are.
          rate: metric of sampled tokens, or steps, per second.
        """
        self.observed: Mapping[str, float] = {}
        """Newest figures of the services, as metrics."""
        self._listener, self._rate = listener, rate
        self._observers = [
            Observer(members, prefix=prefix, deadline_s=OBSERVE_S, interval_s=OBSERVE_EVERY_S)
            for prefix, members in services.items()
        ]
        self.totals = Totals()
        self.begin()

    def begin(self) -> None:
        """The stream begins now."""
        self.totals.began = asyncio.get_running_loop().time()
        self.meter = Meter(self.totals.began, self._rate)

    def update(self, ticket: Ticket, waited_s: float, figures: Mapping[str, float], stats: Mapping[str, Any]) -> None:
        """An update was made and published.

        Args:
          waited_s: how long the learner had waited for its batch.
          figures: its metrics.
          stats: the buffer's statistics after its commit.
        """
        totals = self.totals
        totals.updates += 1
        totals.samples += ticket.samples
        totals.tokens += ticket.tokens
        totals.waited_s += waited_s
        totals.ages.update(ticket.ages)
        totals.spanning += ticket.metrics["staleness/spanning_share"] * ticket.samples
        rates = self.meter.read(
            asyncio.get_running_loop().time(),
            stats["workers"],
            samples=ticket.samples,
            tokens=ticket.tokens,
            waited_s=waited_s,
        )
        known = {**ticket.metrics, **figures, **rates, **self._state(stats)}
        self._listener.update(ticket.version + 1, known, stats["pools"])

    def waiting(self, version: int, waited_s: float, stats: Mapping[str, Any]) -> None:
        """There has been no batch for `waited_s`."""
        self._listener.waiting(version, {"time/without_batch": waited_s, **self._state(stats)})

    async def refresh(self) -> None:
        """Take in figures of the services that are asked for now."""
        for observer in self._observers:
            self.observed = {**self.observed, **await observer.last()}

    def _state(self, stats: Mapping[str, Any]) -> dict[str, float]:
        """Return the metrics that do not need an update, from the buffer's statistics and those observed."""
        self.totals.pauses_s += stats["pauses"]
        held = {"buffer/held_bytes": float(stats["held_bytes"]), "buffer/unscored": float(stats["unscored"])}
        drops = {f"dropped/{reason}": float(count) for reason, count in stats["dropped"].items()}
        drops["staleness/dropped"] = float(stats["dropped"].get("stale", 0))
        for observer in self._observers:
            self.observed = {**self.observed, **observer.poll()}
        return {**held, **drops, **stats["scores"], **self.observed}
