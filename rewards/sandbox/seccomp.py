"""Seccomp: the system calls that a program may make. All others fail with EPERM.

What a name in ALLOWED does is at worst done to the process itself: memory, its own threads, signals and
descriptors, and files as far as Landlock lets it. Landlock says nothing about modes, owners, times and attributes of
files, about other processes or about kernel memory: those calls are simply not here. Some calls are allowed with
certain arguments only, see CHECKED.

Source: https://docs.kernel.org/userspace-api/seccomp_filter.html; numbers from arch/x86/entry/syscalls/syscall_64.tbl.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from collections.abc import Mapping
from typing import NamedTuple

from rewards.sandbox.system import prctl

__all__ = ["restrict", "supported"]

_X86_64 = 0xC000003E
_SET_SECCOMP, _MODE_FILTER = 22, 2
ALLOWED = {
    "read": 0, "write": 1, "open": 2, "close": 3, "stat": 4, "fstat": 5, "lstat": 6, "poll": 7, "lseek": 8, "mmap": 9,
    "mprotect": 10, "munmap": 11, "brk": 12, "rt_sigaction": 13, "rt_sigprocmask": 14, "rt_sigreturn": 15,
    "pread64": 17, "readv": 19, "writev": 20, "access": 21, "pipe": 22, "select": 23, "sched_yield": 24, "mremap": 25,
    "madvise": 28, "dup": 32, "dup2": 33, "pause": 34, "nanosleep": 35, "getitimer": 36, "alarm": 37, "setitimer": 38,
    "getpid": 39, "sendto": 44, "recvfrom": 45, "shutdown": 48, "getsockname": 51, "getpeername": 52,
    "getsockopt": 55, "exit": 60, "wait4": 61, "uname": 63, "getcwd": 79, "chdir": 80, "readlink": 89,
    "gettimeofday": 96, "getrlimit": 97, "getrusage": 98, "sysinfo": 99, "times": 100, "getuid": 102, "getgid": 104,
    "geteuid": 107, "getegid": 108, "getppid": 110, "getpgrp": 111, "getgroups": 115, "getresuid": 118,
    "getresgid": 120, "getpgid": 121, "getsid": 124, "rt_sigpending": 127, "rt_sigtimedwait": 128,
    "rt_sigsuspend": 130, "sigaltstack": 131, "arch_prctl": 158, "gettid": 186, "time": 201, "futex": 202,
    "sched_getaffinity": 204, "getdents64": 217, "set_tid_address": 218, "restart_syscall": 219, "clock_gettime": 228,
    "clock_getres": 229, "clock_nanosleep": 230, "exit_group": 231, "epoll_wait": 232, "epoll_ctl": 233,
    "waitid": 247, "openat": 257, "newfstatat": 262, "readlinkat": 267, "faccessat": 269, "pselect6": 270,
    "ppoll": 271, "set_robust_list": 273, "get_robust_list": 274, "epoll_pwait": 281, "eventfd2": 290,
    "epoll_create1": 291, "dup3": 292, "pipe2": 293, "preadv": 295, "getcpu": 309, "getrandom": 318,
    "membarrier": 324, "statx": 332, "rseq": 334, "close_range": 436, "faccessat2": 439,
}  # fmt: skip

FILES = {
    "pwrite64": 18, "sendfile": 40, "flock": 73, "fsync": 74, "fdatasync": 75, "truncate": 76, "ftruncate": 77,
    "rename": 82, "mkdir": 83, "rmdir": 84, "link": 86, "unlink": 87, "symlink": 88, "chmod": 90, "fchmod": 91,
    "umask": 95, "statfs": 137, "fstatfs": 138, "mkdirat": 258, "unlinkat": 263, "renameat": 264, "linkat": 265,
    "symlinkat": 266, "fchmodat": 268, "utimensat": 280, "fallocate": 285, "pwritev": 296, "renameat2": 316,
    "copy_file_range": 326,
}  # fmt: skip
"""Allowed only where every other file lies on a read-only file system."""


class _Rule(NamedTuple):
    """The lower half of an argument, of which the bits in `mask` must be one of `values`."""

    argument: int
    values: tuple[int, ...]
    mask: int = 0xFFFFFFFF


_THREAD = 0x10000
_NAMESPACES = 0x7E020080
"""Every CLONE_NEW flag."""
_OWN_PID = -1
"""Stands for the process that installs the filter."""
CHECKED = {
    "ioctl": (16, [_Rule(1, (0x5401, 0x541B, 0x5421, 0x5450, 0x5451))]),  # TCGETS, FIONREAD, FIONBIO, FIONCLEX, FIOCLEX
    # Event loops wake themselves with a pair of unix streams, which can be sent to nobody else.
    "socketpair": (53, [_Rule(0, (1,)), _Rule(1, (1,), mask=0xF)]),
    "clone": (56, [_Rule(0, (0,), mask=_NAMESPACES), _Rule(0, (_THREAD,), mask=_THREAD)]),
    "kill": (62, [_Rule(0, (_OWN_PID,))]),
    "fcntl": (72, [_Rule(1, (0, 1, 2, 3, 4, 1030, 1032))]),  # descriptors, their flags; F_SETOWN would send signals
    "prctl": (157, [_Rule(0, (15, 16))]),  # the thread's name
    "tgkill": (234, [_Rule(0, (_OWN_PID,))]),
    "prlimit64": (302, [_Rule(0, (0, _OWN_PID))]),
}
"""Calls that are allowed if every rule holds."""
_CLONE3 = 435

_LOAD, _AND, _EQUAL, _RETURN = 0x20, 0x54, 0x15, 0x06
_ALLOW, _KILL_PROCESS, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_NUMBER_AT, _ARCHITECTURE_AT, _ARGUMENTS_AT = 0, 4, 16
_Line = tuple[int, int, int, int]
"""Operation, lines to skip if true, lines to skip if false, operand."""


def supported() -> bool:
    """Return whether the numbers in here are those of this machine."""
    return platform.machine() == "x86_64"


def restrict(*, files: bool = False) -> None:
    """Put this thread, and all that it starts, under the filter, for good.

    Args:
      files: allow FILES too.

    Raises:
      OSError: the kernel has no seccomp, or this thread may still gain privileges.
    """
    lines = b"".join(struct.pack("HBBI", *line) for line in _program(os.getpid(), ALLOWED | (FILES if files else {})))
    buffer = ctypes.create_string_buffer(lines, len(lines))
    header = struct.pack("HxxxxxxQ", len(lines) // 8, ctypes.addressof(buffer))
    prctl(_SET_SECCOMP, _MODE_FILTER, header)


def _program(pid: int, allowed: Mapping[str, int]) -> list[_Line]:
    lines: list[_Line] = [
        (_LOAD, 0, 0, _ARCHITECTURE_AT),
        (_EQUAL, 1, 0, _X86_64),
        (_RETURN, 0, 0, _KILL_PROCESS),
        (_LOAD, 0, 0, _NUMBER_AT),
    ]
    for number in allowed.values():
        lines += [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, _ALLOW)]
    for number, rules in CHECKED.values():
        block = [line for rule in rules for line in _check(rule, pid)] + [(_RETURN, 0, 0, _ALLOW)]
        lines += [(_EQUAL, 0, len(block), number), *block]
    # glibc then falls back to clone, whose flags can be read; those of clone3 are behind a pointer.
    lines += [(_EQUAL, 0, 1, _CLONE3), (_RETURN, 0, 0, _ERRNO | errno.ENOSYS)]
    return [*lines, (_RETURN, 0, 0, _ERRNO | errno.EPERM)]


def _check(rule: _Rule, pid: int) -> list[_Line]:
    """Return lines that go on behind themselves if the rule holds, and refuse the call if not."""
    values = [pid if value == _OWN_PID else value for value in rule.values]
    load = (_LOAD, 0, 0, _ARGUMENTS_AT + 8 * rule.argument)
    tests = [(_EQUAL, len(values) - i, 0, value) for i, value in enumerate(values)]
    return [load, (_AND, 0, 0, rule.mask), *tests, (_RETURN, 0, 0, _ERRNO | errno.EPERM)]
