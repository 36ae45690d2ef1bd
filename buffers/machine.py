"""What the buffer takes from the machine it runs on: clocks, a disk, and who writes to it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from buffers.commits import CommitThread, MakeCommits
from buffers.files import Files, OsFiles

__all__ = ["Machine"]


@dataclass(frozen=True, kw_only=True)
class Machine:
    """The real one by default; a simulation brings virtual time and a disk that fails."""

    clock: Callable[[], float] = time.monotonic
    """Seconds, for deadlines."""
    wall_clock: Callable[[], float] = time.time
    """Seconds since the Unix epoch, for records."""
    files: Files = field(default_factory=OsFiles)
    commits: MakeCommits = CommitThread
