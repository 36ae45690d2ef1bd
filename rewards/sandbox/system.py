"""The few system calls that Python's standard library does not offer."""

from __future__ import annotations

import ctypes
import os

__all__ = ["call", "prctl"]

_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.syscall.restype = ctypes.c_long


def call(number: int, *arguments: int | bytes) -> int:
    """Make one system call; integers are passed as 64 bits, bytes by their address.

    Raises:
      OSError: the kernel refused.
    """
    wide = [ctypes.c_long(a) if isinstance(a, int) else ctypes.c_char_p(a) for a in arguments]
    return _checked(_LIBC.syscall(ctypes.c_long(number), *wide), f"system call {number}")


def prctl(option: int, *arguments: int | bytes) -> int:
    """Change an attribute of this thread, see prctl(2).

    Raises:
      OSError: the kernel refused.
    """
    wide = [ctypes.c_ulong(a) if isinstance(a, int) else ctypes.c_char_p(a) for a in (*arguments, 0, 0, 0, 0)[:4]]
    return _checked(_LIBC.prctl(ctypes.c_int(option), *wide), f"prctl {option}")


def _checked(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result
