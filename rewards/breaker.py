"""A circuit breaker: a service that keeps failing is left alone, then probed by a single call.

closed --`failures` failed calls in a row--> open --`reset_s` later--> half-open (one probe)
   ^------------------ success ------------------------------------------'  | failure: open
"""

from __future__ import annotations

import asyncio
import enum

__all__ = ["BreakerState", "CircuitBreaker"]


class BreakerState(enum.StrEnum):
    """What happens to a call that asks to be made."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class CircuitBreaker:
    """Counts failures in a row; calls ask for admission and report how they went."""

    def __init__(self, failures: int, reset_s: float) -> None:
        self._failures = failures
        self._reset_s = reset_s
        self._in_a_row = 0
        self._reopens_at = 0.0
        self._changed = asyncio.Event()
        self._turn = asyncio.Lock()  # first come, first probe: a poisonous call must not probe again and again
        self.state = BreakerState.CLOSED
        self.hopeless_since: float | None = None
        """Loop time at which it first opened, while no call has ever succeeded."""
        self._has_succeeded = False

    async def admit(self, until: float) -> bool:
        """Wait until a call may be made, at most until loop time `until`; return whether it may.

        Every admitted call must be followed by `record` or, where it was given up, by `forget`.
        """
        if self.state is BreakerState.CLOSED:
            return True
        try:
            async with asyncio.timeout_at(until), self._turn:
                while not self._passable():
                    await self._event()
        except TimeoutError:
            return False
        return True

    def record(self, succeeded: bool) -> None:
        """Count a call that ended."""
        if succeeded:
            self._in_a_row, self._has_succeeded, self.hopeless_since = 0, True, None
            self._become(BreakerState.CLOSED)
            return
        self._in_a_row += 1
        # A straggler that fails while the breaker is already open must not postpone the probe.
        probe_failed = self.state is BreakerState.HALF_OPEN
        if probe_failed or (self.state is BreakerState.CLOSED and self._in_a_row >= self._failures):
            now = asyncio.get_running_loop().time()
            self._reopens_at = now + self._reset_s
            if self.hopeless_since is None and not self._has_succeeded:
                self.hopeless_since = now
            self._become(BreakerState.OPEN)

    def forget(self) -> None:
        """Take back a call that was cancelled; if it was the probe, the next call is."""
        if self.state is BreakerState.HALF_OPEN:
            self._become(BreakerState.OPEN)

    def _passable(self) -> bool:
        if self.state is BreakerState.OPEN and asyncio.get_running_loop().time() >= self._reopens_at:
            self._become(BreakerState.HALF_OPEN)
            return True  # this call is the probe
        return self.state is BreakerState.CLOSED

    def _become(self, state: BreakerState) -> None:
        if state is not self.state:
            self.state = state
            self._changed.set()

    async def _event(self) -> None:
        """Wait for a change of state, or for the end of the reset time."""
        self._changed.clear()
        try:
            async with asyncio.timeout_at(self._reopens_at if self.state is BreakerState.OPEN else None):
                await self._changed.wait()
        except TimeoutError:
            return  # time for the probe
