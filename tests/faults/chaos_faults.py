"""What the chaos runner does to a process, and how it knows that it did.

Each fault returns its effect in words, "" where it saw none. A fault counts only if its effect was seen: a process that
was told to die may have died before, one that was told to stop may have been replaced, and a disk that is full harms
nobody who does not write.
"""

from __future__ import annotations

import contextlib
import resource
import time
from collections.abc import Callable

import psutil

from tests.faults.chaos_partition import partition

__all__ = ["BUILDING", "FAULTS", "SECONDS", "pool_of"]

SEEN_S = 5.0
"""To see the effect of a signal."""
ON_S, OFF_S = 0.02, 0.08
BUILDING = ".build"
RAYS_OWN = ("IDLE", "DashboardAgent", "RuntimeEnvAgent")


def pool_of(process: psutil.Process) -> str:
    """Return whose process this is: a pool, driver, gcs_server, raylet, or "".

    Members are titled by their pool, and those that are not built yet by `<pool>.build`.
    """
    with contextlib.suppress(psutil.Error, IndexError):
        if process.name() in ("gcs_server", "raylet"):
            return process.name()
        if "launch.py" in process.cmdline():
            return "driver"
        title = process.cmdline()[0]
        # A member with a thread for heartbeats can go on under the title of its constructor.
        pool = title.removeprefix("ray::").removesuffix(".call").removesuffix(".__init__")
        return pool if title.startswith("ray::") and pool not in RAYS_OWN else ""
    return ""


def kill(victim: psutil.Process, seconds: float) -> str:
    """SIGKILL it; seen when it is gone."""
    victim.kill()
    return _gone(victim, seconds)


def freeze(victim: psutil.Process, seconds: float) -> str:
    """SIGSTOP it for a while; seen when the kernel says so, and it used no processor meanwhile."""
    victim.suspend()
    try:
        stopped = _until(lambda: victim.status() == psutil.STATUS_STOPPED, SEEN_S)
        used_s = sum(victim.cpu_times()[:2])
        time.sleep(seconds)
        used_s = sum(victim.cpu_times()[:2]) - used_s
    finally:
        _wake(victim)
    return f"stopped for {seconds:.1f} s, {used_s:.2f} s of processor used" if stopped and used_s < 0.1 else ""


def hang(victim: psutil.Process, seconds: float) -> str:
    """SIGSTOP it for longer than its heartbeat may take; seen when it was replaced for that."""
    victim.suspend()
    try:
        effect = _gone(victim, seconds)
    finally:
        _wake(victim)
    return effect or _gone(victim, SEEN_S)


def slow(victim: psutil.Process, seconds: float) -> str:
    """Let it have a fifth of its time; seen when it was found stopped again and again."""
    stops, ends = 0, time.monotonic() + seconds
    try:
        while time.monotonic() < ends:
            victim.suspend()
            time.sleep(OFF_S)
            stops += victim.status() == psutil.STATUS_STOPPED
            victim.resume()
            time.sleep(ON_S)
    finally:
        _wake(victim)
    return f"found stopped {stops} times" if stops > 5 else ""


def fill_disk(victim: psutil.Process, seconds: float) -> str:
    """Let none of its files grow for a while; seen when it ended of that."""
    _, hard = victim.rlimit(resource.RLIMIT_FSIZE)
    victim.rlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        return _gone(victim, seconds)
    finally:
        with contextlib.suppress(psutil.Error):
            victim.rlimit(resource.RLIMIT_FSIZE, (hard, hard))


FAULTS: dict[str, Callable[[psutil.Process, float], str]] = {
    "kill": kill,
    "freeze": freeze,
    "hang": hang,
    "slow": slow,
    "partition": partition,
    "full disk": fill_disk,
}
SECONDS = {
    "kill": (SEEN_S, SEEN_S), "freeze": (1.0, 3.0), "hang": (25.0, 25.0), "slow": (1.5, 3.0), "partition": (1.0, 3.0),
    "full disk": (30.0, 30.0),
}  # fmt: skip
"""Shortest and longest time of each; of a kill, a hang and a full disk the longest wait for the effect."""


def _wake(victim: psutil.Process) -> None:
    with contextlib.suppress(psutil.Error):  # it may have been replaced meanwhile
        victim.resume()


def _gone(victim: psutil.Process, seconds: float) -> str:
    began = time.monotonic()
    if not _until(lambda: not victim.is_running() or victim.status() == psutil.STATUS_ZOMBIE, seconds):
        return ""
    return f"process gone after {time.monotonic() - began:.2f} s"


def _until(condition: Callable[[], bool], seconds: float) -> bool:
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        try:
            if condition():
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.01)
    return False
