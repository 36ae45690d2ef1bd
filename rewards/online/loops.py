"""One loop for each member of a pool, and how loops wake each other."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from typing import Any

from buffers.transport import Handle, HandleSet
from configs.errors import RunError

__all__ = ["MemberLoops", "Signal"]


class Signal:
    """Wakes everyone who waits now; who looks before waiting, without awaiting between, misses nothing."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def send(self) -> None:
        self._event.set()
        self._event = asyncio.Event()

    async def wait(self, deadline_s: float) -> None:
        """Return at the next signal, or after `deadline_s`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(deadline_s):
                await self._event.wait()


class MemberLoops:
    """Runs `work(handle)` from the moment a member joins a pool until it leaves."""

    def __init__(self, members: HandleSet, work: Callable[[Handle], Coroutine[Any, Any, None]]) -> None:
        self._members, self._work = members, work
        self._tasks: dict[str, asyncio.Task[None]] = {}
        members.on_change(self._follow)

    def raise_failure(self) -> None:
        """Raise what ended a loop of a live member; loops end for faults of their own only.

        Raises:
          RunError: the message names the member.
        """
        for name, task in self._tasks.items():
            if task.done() and not task.cancelled() and (error := task.exception()) is not None:
                raise RunError(f"the loop for {name} ended: {type(error).__name__}: {error}") from error

    async def close(self) -> None:
        """End all loops."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    def _follow(self) -> None:
        for handle in self._members:
            if handle.name not in self._tasks:
                self._tasks[handle.name] = asyncio.get_running_loop().create_task(self._work(handle))
        for name in [name for name in self._tasks if name not in self._members]:
            self._tasks.pop(name).cancel()
