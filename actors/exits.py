"""How a process of this host ended, as the kernel tells those who held on to it.

Ray says that a process is gone, and not by what: its raylets do not ask for exit codes. Linux keeps them for whoever
has a pidfd of the process, parent or not (PIDFD_GET_INFO with PIDFD_INFO_EXIT, since 6.15). Elsewhere nothing is told.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import signal
import struct
import weakref
from functools import cache
from pathlib import Path
from typing import NamedTuple

__all__ = ["ExitWatch", "Process"]

INFO = struct.Struct("<Q52xi")
"""pidfd_info: what is asked for and, in the answer, known; then, at the end, the wait status."""
GET_INFO = (3 << 30) | (INFO.size << 16) | (0xFF << 8) | 11
EXIT = 1 << 3
PATIENCE_S, LOOK_S = 0.5, 0.01
"""Its connections end a moment before a process does."""


class Process(NamedTuple):
    """A process, wherever it runs."""

    host: str
    """Names the kernel that runs now, and the process ids that count there."""
    pid: int

    @classmethod
    def mine(cls) -> Process:
        return cls(_host(), os.getpid())


@cache
def _host() -> str:
    return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {os.readlink('/proc/self/ns/pid')}"


class ExitWatch:
    """Holds on to a process; open it while the process lives."""

    def __init__(self, process: Process) -> None:
        """Hold nothing where it runs on another host, or is gone."""
        self._fd: int | None = None
        with contextlib.suppress(OSError):
            if process.host == _host():
                self._fd = os.pidfd_open(process.pid)
                weakref.finalize(self, os.close, self._fd)

    async def told(self) -> str:
        """Return "killed by SIGKILL" or "exit code 7" once it has ended; nothing where the kernel does not tell."""
        ends = asyncio.get_running_loop().time() + PATIENCE_S
        while (status := self._status()) is None and self._fd is not None:
            if asyncio.get_running_loop().time() > ends:
                return ""
            await asyncio.sleep(LOOK_S)
        if status is None:
            return ""
        if os.WIFSIGNALED(status):
            return f"killed by {signal.Signals(os.WTERMSIG(status)).name}"
        return f"exit code {os.WEXITSTATUS(status)}"

    def _status(self) -> int | None:
        if self._fd is None:
            return None
        answer = bytearray(INFO.pack(EXIT, 0))
        try:
            fcntl.ioctl(self._fd, GET_INFO, answer)
        except OSError:  # an older kernel
            return None
        known, status = INFO.unpack(answer)
        return int(status) if known & EXIT else None
