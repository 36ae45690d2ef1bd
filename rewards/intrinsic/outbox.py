"""What a scorer met, on its way to the learner: bounded, and never in the way of a score."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field

from buffers.transport import HandleSet
from configs.errors import RunError

__all__ = ["Met", "Outbox"]

CAPTIONS = 4096
"""Different captions that wait for the learner; beyond it the ones longest unseen are let go."""
FRAGMENT_BYTES = 8 << 20
"""Observations that wait for the learner; beyond it the oldest fragments are let go."""
PAUSE_S = 0.5
"""After a message that did not arrive, and between looks for a learner that is not there."""


@dataclass(kw_only=True, slots=True)
class Met:
    """One message to the learner."""

    captions: dict[str, int] = field(default_factory=dict)
    """Caption -> times it was scored; latest scored last."""
    fragments: list[bytes] = field(default_factory=list)
    """Observations, as their environment encodes them."""
    used: dict[int, float] = field(default_factory=dict)
    """Version -> when it first scored anything here, in seconds since the Unix epoch."""


class Outbox:
    """Collects and sends, one message at a time."""

    def __init__(self, learners: HandleSet, deadline_s: float) -> None:
        self.dropped = 0
        """Captions and fragments let go since the start."""
        self.failed = 0
        """Messages that did not arrive; what they held was kept, as far as there was room."""
        self._learners, self._deadline_s = learners, deadline_s
        self._waiting = Met()
        self._filled = asyncio.Event()

    @property
    def waiting(self) -> int:
        """Captions and fragments."""
        return len(self._waiting.captions) + len(self._waiting.fragments)

    def add(self, met: Met, *, newer: bool = True) -> None:
        """Take in what was just scored, or (not newer) what could not be sent; at once."""
        first, then = (self._waiting, met) if newer else (met, self._waiting)
        captions = dict(first.captions)
        for caption, count in then.captions.items():
            captions[caption] = captions.pop(caption, 0) + count
        used = {**then.used, **first.used}
        self._waiting = Met(captions=captions, fragments=first.fragments + then.fragments, used=used)
        self._trim()
        self._filled.set()

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
            message, self._waiting = self._waiting, Met()
            self._filled.clear()
            try:
                await learner.call(
                    "submit", message, deadline_s=self._deadline_s, awaiting="word that captions arrived"
                )
            except RunError:
                self.failed += 1
                self.add(message, newer=False)
                await asyncio.sleep(PAUSE_S)

    def _trim(self) -> None:
        captions, fragments = self._waiting.captions, self._waiting.fragments
        while len(captions) > CAPTIONS:
            del captions[next(iter(captions))]
            self.dropped += 1
        while sum(map(len, fragments)) > FRAGMENT_BYTES:
            del fragments[0]
            self.dropped += 1
