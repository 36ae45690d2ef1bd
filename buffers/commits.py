"""When queued rows are written: by a thread of their own, so that an fsync of 300 ms never stops an event loop."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Protocol

__all__ = ["CommitThread", "Commits", "MakeCommits"]


class Commits(Protocol):
    """Calls `commit` after each request, never twice at a time, and `end` once after the last one."""

    def request(self, *, urgent: bool) -> None:
        """Rows wait: commit them, at once if urgent."""
        ...

    def finish(self, deadline_s: float) -> bool:
        """Commit what waits, then end; return whether that was done within `deadline_s`."""
        ...


MakeCommits = Callable[[Callable[[], None], Callable[[], None], float, str], Commits]
"""(commit, end, interval in seconds, name) -> Commits; neither function raises."""


class CommitThread:
    """One thread; commits begin at least `interval_s` apart, so that rows gather into groups."""

    def __init__(self, commit: Callable[[], None], end: Callable[[], None], interval_s: float, name: str) -> None:
        self._commit, self._end, self._interval_s, self._name = commit, end, interval_s, name
        self._wake = threading.Condition()
        self._wanted = self._urgent = self._closing = False
        self._thread: threading.Thread | None = None
        self._next_commit = 0.0

    def request(self, *, urgent: bool) -> None:
        with self._wake:
            self._wanted, self._urgent = True, self._urgent or urgent
            if self._thread is None:
                self._thread = threading.Thread(target=self._serve, name=self._name, daemon=True)
                self._thread.start()
            self._wake.notify()

    def finish(self, deadline_s: float) -> bool:
        with self._wake:
            self._closing = True
            self._wake.notify()
        if self._thread is None:
            return True
        self._thread.join(deadline_s)
        return not self._thread.is_alive()

    def _serve(self) -> None:
        while self._next():
            self._commit()
        self._end()

    def _next(self) -> bool:
        """Wait for a request and for the interval; False once closed and nothing waits."""
        with self._wake:
            self._wake.wait_for(lambda: self._wanted or self._closing)
            pause = max(0.0, self._next_commit - time.monotonic())
            self._wake.wait_for(lambda: self._urgent or self._closing, timeout=pause)
            wanted, self._wanted, self._urgent = self._wanted, False, False
        self._next_commit = time.monotonic() + self._interval_s
        return wanted
