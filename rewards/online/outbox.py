"""What a scorer met, on its way to the learner: bounded, and never in the way of a score."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Generic, Protocol, Self, TypeVar

from buffers.transport import HandleSet
from configs.errors import RunError

__all__ = ["Message", "Outbox"]

PAUSE_S = 0.5
"""After a message that did not arrive, and between looks for a learner that is not there."""
DRAIN_S = 0.05
"""Between looks at what still waits."""


class Message(Protocol):
    """What a learner's `submit` takes."""

    def __len__(self) -> int: ...

    def followed_by(self, newer: Self) -> Self:
        """Return both as one message."""
        ...

    def trim(self) -> int:
        """Let go of what is too much to keep; return how much."""
        ...


M = TypeVar("M", bound=Message)


class Outbox(Generic[M]):
    """Collects and sends, one message at a time."""

    def __init__(self, learners: HandleSet, deadline_s: float, empty: Callable[[], M]) -> None:
        self.dropped = 0
        """Parts of messages let go since the start."""
        self.failed = 0
        """Messages that did not arrive; what they held was kept, as far as there was room."""
        self._learners, self._deadline_s, self._empty = learners, deadline_s, empty
        self._waiting = empty()
        self._filled = asyncio.Event()
        self._sending = False

    @property
    def waiting(self) -> int:
        """Parts of messages."""
        return len(self._waiting)

    def add(self, met: M, *, newer: bool = True) -> None:
        """Take in what was just scored, or (not newer) what could not be sent; at once."""
        self._waiting = self._waiting.followed_by(met) if newer else met.followed_by(self._waiting)
        self.dropped += self._waiting.trim()
        self._filled.set()

    async def drain(self) -> None:
        """Return once all that waits has arrived; whoever calls it bounds the wait."""
        while self.waiting or self._sending:
            await asyncio.sleep(DRAIN_S)

    async def run(self) -> None:
        """Send until cancelled; what the learner cannot take now goes with the next message."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PAUSE_S):
                    await self._filled.wait()
            learner = next(iter(self._learners), None)
            if not self._filled.is_set():
                continue
            if learner is None:
                await asyncio.sleep(PAUSE_S)
                continue
            message, self._waiting = self._waiting, self._empty()
            self._filled.clear()
            self._sending = True
            try:
                await learner.call("submit", message, deadline_s=self._deadline_s, awaiting="receipt of what was met")
            except RunError:
                self.failed += 1
                self.add(message, newer=False)
                await asyncio.sleep(PAUSE_S)
            finally:
                self._sending = False
