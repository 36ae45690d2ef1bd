"""What a program is given: descriptors that it can read its input from, and write its answers to."""

from __future__ import annotations

import contextlib
import fcntl
import os

__all__ = ["pipe", "sealed"]


def pipe(kept: contextlib.ExitStack, given: contextlib.ExitStack) -> tuple[int, int]:
    """Return a new pipe, whose ends these two will close."""
    reading, writing = os.pipe()
    kept.callback(os.close, reading)
    given.callback(os.close, writing)
    return reading, writing


def sealed(given: contextlib.ExitStack, content: bytes) -> int:
    """Return a descriptor of an unnamed file that can be read, and never changed."""
    descriptor = os.memfd_create("sandbox", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    given.callback(os.close, descriptor)
    with open(descriptor, "wb", closefd=False) as file:
        file.write(content)
    os.lseek(descriptor, 0, os.SEEK_SET)
    seals = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
    return descriptor
