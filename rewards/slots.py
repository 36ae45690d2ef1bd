"""Bounded concurrency with a visible queue in which retries go first."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from buffers.load import LoadMeter

__all__ = ["Slots"]


class Slots:
    """`size` places; who finds none waits in line, urgent ones before the others."""

    def __init__(self, size: int) -> None:
        self._size = size
        self.load = LoadMeter(self.busy_s, size)
        self._used = 0
        self._urgent: deque[asyncio.Future[None]] = deque()
        self._normal: deque[asyncio.Future[None]] = deque()
        self._busy_s = 0.0
        self._since = 0.0

    @property
    def waiting(self) -> int:
        """Calls in line."""
        return len(self._urgent) + len(self._normal)

    def busy_s(self) -> float:
        """Return the seconds of use so far, summed over places."""
        self._account()
        return self._busy_s

    @asynccontextmanager
    async def hold(self, deadline_s: float, *, urgent: bool = False) -> AsyncIterator[None]:
        """Occupy a place for the length of a `with` block.

        Raises:
          TimeoutError: none came free within `deadline_s`.
        """
        if self._used >= self._size:
            await self._wait(self._urgent if urgent else self._normal, deadline_s)
        else:
            self._change(+1)
            self.load.came(place := object())
            self.load.begun(place)
        try:
            yield
        finally:
            self._release()

    async def _wait(self, line: deque[asyncio.Future[None]], deadline_s: float) -> None:
        turn = asyncio.get_running_loop().create_future()
        line.append(turn)
        self.load.came(turn)
        try:
            async with asyncio.timeout(deadline_s):
                await turn
            self.load.begun(turn)
        except (TimeoutError, asyncio.CancelledError):
            if not turn.cancelled():  # the place was handed over in the very moment of giving up
                self._release()
            elif turn in line:
                line.remove(turn)
            self.load.gone(turn)
            raise

    def _release(self) -> None:
        while line := self._urgent or self._normal:
            if not (turn := line.popleft()).cancelled():
                turn.set_result(None)  # the place changes hands and stays used
                return
        self._change(-1)

    def _change(self, by: int) -> None:
        self._account()
        self._used += by

    def _account(self) -> None:
        now = asyncio.get_running_loop().time()
        self._busy_s += self._used * (now - self._since)
        self._since = now
