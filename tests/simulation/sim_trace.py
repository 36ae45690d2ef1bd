"""What happened, in order: a hash of all of it, and the last lines for a reader."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable

__all__ = ["Trace"]

SHOWN = 60


class Trace:
    """Lines of virtual time and event."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock, self._digest = clock, hashlib.sha256()
        self.last: deque[str] = deque(maxlen=SHOWN)
        self.lines = 0

    def note(self, *words: str) -> None:
        line = f"{self._clock():.6f} {' '.join(words)}"
        self._digest.update(line.encode() + b"\n")
        self.last.append(line)
        self.lines += 1

    @property
    def hash(self) -> str:
        return self._digest.hexdigest()[:16]
