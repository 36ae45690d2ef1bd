"""The start-up probe: whether this machine contains hostile programs. Where it does not, nothing runs."""

from __future__ import annotations

import functools
import threading

from rewards.sandbox.client import ZygoteClient
from rewards.sandbox.hostile import ENDS, HOSTILE
from rewards.sandbox.limits import Limits
from rewards.sandbox.program import End, Order, Outcome, SandboxError

__all__ = ["escapes", "require_containment"]

DEADLINE_S = 20.0
SHORT_S = 0.2
"""For those that never end."""
_HARMLESS = "def attempt():\n    import statistics\n    return statistics.mean([1, 3])\n"
_LOCK = threading.Lock()


def require_containment(scratch_bytes: int = 0) -> None:
    """Return if hostile programs are contained; they run once in each process that asks.

    Args:
      scratch_bytes: of the folder that programs may write to.

    Raises:
      SandboxError: one of them is not, or an ordinary program cannot run.
    """
    with _LOCK:
        _probed(scratch_bytes)


def escapes(order: Order) -> list[str]:
    """Return what hostile programs managed in a sandbox of Python programs, one line for each."""
    zygote = ZygoteClient(order)
    try:
        outcome = _run(zygote, _HARMLESS, DEADLINE_S)
        if outcome.reply != 2:
            return [f"an ordinary program fails: {outcome.errors.strip()[-300:]}"]
        return [line for name in HOSTILE for line in _escapes(zygote, name)]
    finally:
        zygote.close()


@functools.cache
def _probed(scratch_bytes: int) -> None:
    limits = Limits(memory_bytes=256 << 20)
    target = "rewards.sandbox.python_program:run"
    found = escapes(Order(target=target, limits=limits, scratch_bytes=scratch_bytes))
    if found:
        raise SandboxError(
            f"this machine does not contain hostile programs ({'; '.join(found)}); nothing that a model wrote is run: "
            "use another host or container profile, or a reward that runs no code"
        )


def _escapes(zygote: ZygoteClient, name: str) -> list[str]:
    expected = ENDS.get(name, End.EXITED)
    outcome = _run(zygote, HOSTILE[name], SHORT_S if expected is End.DEADLINE else DEADLINE_S)
    if outcome.end is not expected:
        return [f"{name}: {outcome.end} instead of {expected}"]
    if expected is End.EXITED and outcome.reply != []:
        return [f"{name}: {outcome.reply or outcome.errors.strip()[-300:] or f'status {outcome.code}'}"]
    return []


def _run(zygote: ZygoteClient, source: str, deadline_s: float) -> Outcome:
    return zygote.run({"source": source, "call": "attempt", "arguments": []}, deadline_s)
