"""Landlock: files that this process and its children may read; all others are out of reach.

Source: https://docs.kernel.org/userspace-api/landlock.html, include/uapi/linux/landlock.h.
"""

from __future__ import annotations

import contextlib
import errno
import os
import struct
from collections.abc import Iterable

from rewards.sandbox.system import call

__all__ = ["abi", "restrict", "ruleset"]

_CREATE, _ADD_RULE, _RESTRICT = 444, 445, 446  # the same on every architecture
_WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 1, 1 << 2, 1 << 3
_NOT_IN_FOLDERS = 1 | 1 << 6 | 1 << 9 | 1 << 10 | 1 << 11 | 1 << 15
"""Executing, making devices, sockets and pipes, controlling devices."""
_PATH_BENEATH = 1
_ACCESS_BITS = {1: 13, 2: 14, 3: 15, 4: 15}
"""Kinds of access to files that a version knows; from 5 on there are 16, device ioctls the last."""
_TCP = 0b11
_SCOPES = 0b11
"""Abstract unix sockets and signals."""


def abi() -> int:
    """Return the version of Landlock in this kernel, 0 where it has none."""
    try:
        return call(_CREATE, 0, 0, 1)
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM):
            raise
        return 0


def ruleset(readable: Iterable[str], devices: Iterable[str] = (), folders: Iterable[str] = ()) -> int:
    """Return a descriptor of rules: what may be read, which devices written, and in which folders anything done.

    Nothing may be executed, and no special files made. Paths that do not exist are left out. TCP, abstract unix
    sockets and signals to processes outside are refused too where the kernel's version knows how to.

    Raises:
      OSError: the kernel has no Landlock.
    """
    version = abi()
    every = (1 << _ACCESS_BITS.get(version, 16)) - 1
    fields = struct.pack("QQQ", every, _TCP, _SCOPES)[: 8 if version < 4 else 16 if version < 6 else 24]
    rules = call(_CREATE, fields, len(fields), 0)
    for path in readable:
        _allow(rules, path, _READ_FILE | _READ_DIR)
    for path in devices:
        _allow(rules, path, _READ_FILE | _WRITE_FILE)
    for path in folders:
        _allow(rules, path, every & ~_NOT_IN_FOLDERS)
    return rules


def restrict(rules: int) -> None:
    """Put this thread, and all that it starts, under the rules, for good.

    Raises:
      OSError: this thread may still gain privileges.
    """
    call(_RESTRICT, rules, 0)


def _allow(rules: int, path: str, access: int) -> None:
    with contextlib.suppress(FileNotFoundError):
        beneath = os.open(path, os.O_PATH | os.O_CLOEXEC)
        try:
            access &= ~0 if os.path.isdir(path) else ~_READ_DIR
            call(_ADD_RULE, rules, _PATH_BENEATH, struct.pack("=Qi", access, beneath), 0)
        finally:
            os.close(beneath)
