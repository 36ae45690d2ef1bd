"""Bubblewrap: an own file system around a zygote, for programs that need a folder to write to.

The policy of the sandbox holds inside as well; what this adds is an empty folder in memory, of a fixed size, that is
gone with its program, and namespaces in which there is no other process, network or file to begin with.

Source: bwrap(1), https://github.com/containers/bubblewrap.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from rewards.sandbox.confinement import DEVICES, SCRATCH

__all__ = ["refusal", "wrapped"]

_ALWAYS = "--unshare-ipc --unshare-pid --unshare-net --unshare-uts --unshare-cgroup-try --die-with-parent --new-session"
# The kernel limits nobody's threads who is root outside: root's zygote keeps what gives a program an own uid.
_AS_ROOT = "--cap-drop ALL --cap-add CAP_SETUID --cap-add CAP_SETGID --cap-add CAP_KILL --cap-add CAP_DAC_READ_SEARCH"
_AS_USER = "--unshare-user --disable-userns --cap-drop ALL"
_SYSTEM = ("/usr", "/lib", "/lib64")


def refusal() -> str:
    """Return why there can be no folder to write to on this machine, "" if there can."""
    if shutil.which("bwrap") is None:
        return "a scratch folder needs bubblewrap, and there is no `bwrap` here; install it, or set the size to 0"
    return ""


def wrapped(command: Sequence[str], readable: Sequence[str], scratch_bytes: int) -> list[str]:
    """Return the command line that runs `command` with a folder of its own.

    Args:
      readable: files and folders that it sees beside the interpreter's and this package's.
    """
    isolation = f"{_ALWAYS} {_AS_USER if os.geteuid() else _AS_ROOT}".split()
    own = {sys.prefix, sys.base_prefix, *_SYSTEM, str(Path(__file__).parents[1])}
    seen = sorted(path for path in {*own, *readable} if os.path.exists(path))
    binds = [word for path in seen for word in ("--ro-bind", path, path)]
    devices = [word for path in DEVICES for word in ("--dev-bind", path, path)]
    scratch = ["--perms", "0777", "--size", str(scratch_bytes), "--tmpfs", SCRATCH]
    # What bwrap itself makes is in memory and without a limit: nothing of it stays writable.
    sealed = ["--proc", "/proc", *scratch, "--remount-ro", "/"]
    return [shutil.which("bwrap") or "bwrap", *isolation, *binds, *devices, *sealed, "--", *command]
