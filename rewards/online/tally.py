"""How many lessons each sender has had: on disk, so that those which a killed one takes along are known.

    <folder>/met/<sender>   the count in 20 digits; locked while its sender lives

A count is written before the scores are returned, and nobody waits for the disk: it outlives its process, not its host.
"""

from __future__ import annotations

import fcntl
import os
import weakref
from collections.abc import Iterator, Mapping
from pathlib import Path

from buffers.files import disk

__all__ = ["Tally", "lost"]

FOLDER = "met"


class Tally:
    """The count of one sender, which must be a new name."""

    def __init__(self, folder: Path, sender: str) -> None:
        """Begin at 0.

        Raises:
          DataError: the disk refused.
        """
        self.sender, self.count = sender, 0
        path = folder / FOLDER / sender
        with disk(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
            self._close = weakref.finalize(self, os.close, self._fd)
            fcntl.flock(self._fd, fcntl.LOCK_EX)  # ends with the process, however that ends

    def add(self, lessons: int) -> int:
        """Count further lessons; return how many there are now."""
        self.count += lessons
        os.pwrite(self._fd, f"{self.count:020d}".encode(), 0)
        return self.count

    def close(self) -> None:
        """Nothing more comes of this sender; what did not arrive by now never will."""
        self._close()


def lost(folder: Path, taken: Mapping[str, int]) -> int:
    """Return how many lessons of senders that are gone never arrived.

    Args:
      taken: sender -> lessons that arrived, or that it let go of by itself.
    """
    return sum(max(0, count - taken.get(sender, 0)) for sender, count in _gone(folder))


def _gone(folder: Path) -> Iterator[tuple[str, int]]:
    """Yield (sender, its count) of those that live no more."""
    for path in sorted((folder / FOLDER).glob("*")):
        with path.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            yield path.name, int(file.read() or b"0")
