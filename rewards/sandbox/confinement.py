"""How a process gives up all that a program needs not: the policy of the sandbox, applied from inside."""

from __future__ import annotations

import contextlib
import math
import os
import platform
import resource
import signal
import struct
import sys
import sysconfig
import time
from collections.abc import Iterable

from rewards.sandbox import landlock, seccomp
from rewards.sandbox.limits import Limits
from rewards.sandbox.system import call, prctl

__all__ = ["DEVICES", "SCRATCH", "Confinement", "hidden", "interpreter_paths", "refusal", "tasks_of"]

FIRST_UID, UIDS = 61184, 4336
"""The range that systemd keeps for services without a user; containers map it too."""
TASKS_AGE_S = 1.0
SCRATCH = "/scratch"
"""Where programs may write, if they may at all."""
DEVICES = ("/dev/null", "/dev/urandom")
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_KEEPCAPS, _PR_SET_NO_NEW_PRIVS = 1, 4, 8, 38
_CAPSET, _CAPABILITY_VERSION, _CAP_DAC_READ_SEARCH = 126, 0x20080522, 2


def refusal() -> str:
    """Return why programs cannot be confined on this machine, "" if they can."""
    if not sys.platform.startswith("linux") or not seccomp.supported():
        here = platform.platform()
        return f"the sandbox's list of system calls is for Linux on x86_64, and this is {here}; use such a host"
    if landlock.abi() < 1:
        return (
            f"the kernel {platform.release()} offers no Landlock here, and programs could read files; use Linux 5.13 "
            "or later, with landlock among its `lsm=` boot parameters, and a container profile that allows its calls"
        )
    return ""


def interpreter_paths() -> list[str]:
    """Return the folders that an interpreter and its packages lie in, and those of shared libraries."""
    own = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    return sorted({*own, f"{sys.base_prefix}/lib", "/usr/lib", "/usr/lib64", "/lib", "/lib64"})


def hidden(paths: Iterable[str]) -> list[str]:
    """Return those of `paths` that exist and that not every user may read."""
    return [path for path in paths if os.path.exists(path) and not _open_to_all(path)]


class Confinement:
    """The policy for one process, prepared once and applied in as many forks of it as there are programs."""

    def __init__(self, limits: Limits, readable: Iterable[str] = (), scratch_bytes: int = 0) -> None:
        """Prepare what can be prepared.

        Args:
          readable: files and folders beside the interpreter's.
          scratch_bytes: of one file in SCRATCH; 0: there is no such folder.

        Raises:
          OSError: the kernel has no Landlock.
        """
        paths = [*interpreter_paths(), *readable]
        self._limits = limits
        self._scratch_bytes = scratch_bytes
        self._rules = landlock.ruleset(paths, DEVICES, [SCRATCH] * bool(scratch_bytes))
        self._reads_hidden = os.geteuid() == 0 and bool(hidden(paths))
        self._tasks, self._counted = 0, -math.inf

    def count_tasks(self) -> None:
        """See how many threads this user has, if that may have changed; root's programs have a uid of their own."""
        if os.geteuid() != 0 and time.monotonic() - self._counted > TASKS_AGE_S:
            self._tasks, self._counted = tasks_of(os.getuid()), time.monotonic()

    def apply(self, cpu_s: int | None = None, parent: int | None = None) -> None:
        """Give up everything that the policy does not name; there is no way back.

        Args:
          cpu_s: processor seconds until SIGXCPU, which may be ignored, and one more until SIGKILL; None: no end.
          parent: process whose end ends this one; it must have one thread, since the kernel looks at the thread's end.

        Raises:
          OSError, ValueError: some part of it is not possible here.
        """
        root = os.geteuid() == 0
        _limit(self._limits, cpu_s, 0 if root else self._tasks, self._scratch_bytes)
        if root:
            _become(FIRST_UID + os.getpid() % UIDS, self._reads_hidden)
        prctl(_PR_SET_NO_NEW_PRIVS, 1)
        prctl(_PR_SET_DUMPABLE, 0)  # else a core dump may be piped to a program outside
        if parent is not None:
            prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # a change of uid clears it, so it comes later
            if os.getppid() != parent:
                raise ProcessLookupError("the parent has ended")
        landlock.restrict(self._rules)
        seccomp.restrict(files=self._scratch_bytes > 0)


def tasks_of(uid: int) -> int:
    """Return how many threads a user has."""
    total = 0
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):  # it has ended
            if os.stat(f"/proc/{name}").st_uid == uid:
                total += len(os.listdir(f"/proc/{name}/task"))
    return total


def _limit(limits: Limits, cpu_s: int | None, tasks: int, file_bytes: int) -> None:
    cpu = [] if cpu_s is None else [(resource.RLIMIT_CPU, cpu_s, cpu_s + 1)]
    for what, soft, hard in (
        (resource.RLIMIT_AS, limits.memory_bytes, limits.memory_bytes),
        (resource.RLIMIT_NOFILE, limits.descriptors, limits.descriptors),
        (resource.RLIMIT_NPROC, tasks + limits.threads, tasks + limits.threads),
        *cpu,
        (resource.RLIMIT_FSIZE, file_bytes, file_bytes),
        (resource.RLIMIT_CORE, 0, 0),
        (resource.RLIMIT_MEMLOCK, 0, 0),
    ):
        _, ceiling = resource.getrlimit(what)
        ceiling = hard if ceiling == resource.RLIM_INFINITY else min(hard, ceiling)
        resource.setrlimit(what, (min(soft, ceiling), ceiling))


def _become(uid: int, reads_hidden: bool) -> None:
    """Turn root into a user that nobody is, without privileges.

    Where the interpreter lies in root's own folder, one stays: to search folders and read whatever the
    file's mode says. Landlock still decides what may be opened.
    """
    prctl(_PR_SET_KEEPCAPS, int(reads_hidden))
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    kept = (1 << _CAP_DAC_READ_SEARCH) if reads_hidden else 0
    call(_CAPSET, struct.pack("Ii", _CAPABILITY_VERSION, 0), struct.pack("IIIIII", kept, kept, 0, 0, 0, 0))


def _open_to_all(path: str) -> bool:
    path = os.path.realpath(path)
    while path != "/":
        if not os.stat(path).st_mode & 0o001:
            return False
        path = os.path.dirname(path)
    return True
