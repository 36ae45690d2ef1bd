"""A process that hears nothing: its TCP sockets drop every packet, data and acknowledgements alike.

The sockets are borrowed from the process (pidfd_getfd) and given a filter that keeps nothing; the kernel counts what
it drops. When the filter goes, TCP sends everything again, as after a cable that was pulled for a while.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import struct
import time

import psutil

__all__ = ["partition"]

LOOK_S = 0.05
"""Between looks for sockets that were opened meanwhile."""
SYS_PIDFD_GETFD = 438
SO_ATTACH_FILTER, SO_DETACH_FILTER, SO_MEMINFO = 26, 27, 55
MEMINFO_WORDS, DROPPED = 9, 8
RETURN_NOTHING = ctypes.create_string_buffer(struct.pack("HBBI", 6, 0, 0, 0))
KEEP_NOTHING = struct.pack("HP", 1, ctypes.addressof(RETURN_NOTHING))
"""A classic BPF program of one instruction: keep 0 bytes of a packet."""

_libc = ctypes.CDLL(None, use_errno=True)


def partition(victim: psutil.Process, seconds: float) -> str:
    """Let it hear nothing for a while; seen when the kernel dropped what others sent to it."""
    deaf: dict[str, socket.socket] = {}
    before: dict[str, int] = {}
    try:
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            for name, descriptor in _sockets(victim).items():
                if name not in deaf and (borrowed := _borrow(victim.pid, descriptor)) is not None:
                    borrowed.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, KEEP_NOTHING)
                    deaf[name] = borrowed
                    before[name] = _dropped(borrowed)
            time.sleep(LOOK_S)
        dropped = sum(map(_dropped, deaf.values())) - sum(before.values())
        return f"{dropped} packets dropped on {len(deaf)} sockets" if dropped else ""
    finally:
        for each in deaf.values():
            each.setsockopt(socket.SOL_SOCKET, SO_DETACH_FILTER, 0)
            each.close()


def _sockets(victim: psutil.Process) -> dict[str, int]:
    """Return inode -> descriptor of every socket that a process has open."""
    folder, found = f"/proc/{victim.pid}/fd", {}
    with contextlib.suppress(FileNotFoundError):  # it is gone: there is nothing left to hear
        for name in os.listdir(folder):
            with contextlib.suppress(OSError):
                target = os.readlink(f"{folder}/{name}")
                if target.startswith("socket:"):
                    found[target] = int(name)
    return found


def _borrow(pid: int, descriptor: int) -> socket.socket | None:
    """Return a TCP socket of another process, None where the descriptor is gone or something else."""
    with contextlib.suppress(OSError):
        process = os.pidfd_open(pid)
        try:
            number = _libc.syscall(SYS_PIDFD_GETFD, process, descriptor, 0)
        finally:
            os.close(process)
        if number >= 0:
            found = socket.socket(fileno=number)
            if found.type == socket.SOCK_STREAM and found.family in (socket.AF_INET, socket.AF_INET6):
                return found
            found.close()
    return None


def _dropped(each: socket.socket) -> int:
    figures = each.getsockopt(socket.SOL_SOCKET, SO_MEMINFO, 4 * MEMINFO_WORDS)
    return int(struct.unpack(f"{MEMINFO_WORDS}I", figures)[DROPPED])
