"""A sandbox on this machine, where it can confine programs, and what tests ask of its processes."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from rewards.sandbox import confinement
from rewards.sandbox.limits import Limits
from rewards.sandbox.pool import Sandbox
from rewards.sandbox.program import Order, Outcome, SandboxError

__all__ = ["DEADLINE_S", "ORDER", "ROOT", "confined", "confining", "descendants", "handles", "runner", "zygote_of"]

ROOT = Path(__file__).parents[2]
ORDER = Order(target="rewards.sandbox.python_program:run", limits=Limits(memory_bytes=256 << 20))
DEADLINE_S = 30.0
"""For what ends by itself; what does not gets a shorter one."""


def confining() -> Iterator[Sandbox]:
    """Yield a sandbox; where this machine cannot confine programs, prove that it refuses, and skip."""
    found = Sandbox(ORDER)
    if refusal := confinement.refusal():
        with pytest.raises(SandboxError, match=re.escape(refusal)):
            found.warm(1)
        pytest.skip(f"it refuses to run anything, as it must: {refusal}")
    yield found
    found.close()


def runner(sandbox: Sandbox) -> Callable[..., Outcome]:
    """Return what runs a program from its source."""

    def in_sandbox(source: str, deadline_s: float = DEADLINE_S, text: bytes = b"") -> Outcome:
        return sandbox.run({"source": source}, deadline_s, text=text)

    return in_sandbox


def descendants() -> set[int]:
    """Return the processes that this one has started and that do anything but wait for programs."""
    return {p.pid for p in psutil.Process().children(recursive=True) if "boot.py" not in " ".join(p.cmdline()[:8])}


def handles(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def zygote_of(sandbox: Sandbox) -> int:
    return sandbox._idle[0]._process.pid


def confined(process: psutil.Process) -> bool:
    """Return whether the last step of the policy, the filter of system calls, is in force."""
    return "Seccomp:\t2" in Path(f"/proc/{process.pid}/status").read_text()
