"""Slots that could be generated if a worker had room for them, first come first served."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from buffers.load import KEPT, WINDOW_S, Report

__all__ = ["Backlog"]


class Backlog:
    """How long such slots wait for a worker; they are counted, since they are admitted only when one takes them."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._since: deque[tuple[float, int]] = deque()
        """(seconds, slots that could begin since then)"""
        self._size = 0
        self._waits: deque[tuple[float, float]] = deque(maxlen=KEPT)
        """(when it began, seconds that it had waited)"""

    def may_begin(self, count: int) -> None:
        """So many slots could begin now."""
        if count > self._size:
            self._since.append((self._clock(), count - self._size))
            self._size = count
        while self._size > count:
            self._take(min(self._size - count, self._since[-1][1]), last=True)

    def begun(self, count: int) -> None:
        """So many of them began."""
        now = self._clock()
        for _ in range(min(count, self._size)):
            self._waits.append((now, now - self._since[0][0]))
            self._take(1)

    def report(self) -> Report:
        """Return how things stand; what still waits counts where nothing began lately."""
        now = self._clock()
        waits = [wait for when, wait in self._waits if when > now - WINDOW_S]
        standing = [now - self._since[0][0]] if self._since and not waits else []
        return Report(waiting=self._size, waits_s=(*waits, *standing))

    def _take(self, count: int, *, last: bool = False) -> None:
        place = -1 if last else 0
        since, there = self._since[place]
        if there > count:
            self._since[place] = (since, there - count)
        elif last:
            self._since.pop()
        else:
            self._since.popleft()
        self._size -= min(count, there)
