"""Daemon threads for blocking calls; one that never returns can be left behind.

An executor's threads are joined when the process exits, so a hung one would keep it alive; these are not.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import queue
import threading
from collections.abc import Callable
from typing import Any

__all__ = ["WorkerThreads"]

_Job = Callable[[], None]


class _Worker:
    """A thread that runs jobs until it is given None."""

    def __init__(self, name: str) -> None:
        self.jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        threading.Thread(target=self._loop, name=name, daemon=True).start()

    def _loop(self) -> None:
        while (job := self.jobs.get()) is not None:
            job()


class WorkerThreads:
    """As many threads as there are calls at a time, plus those that hang."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._numbers = itertools.count()
        self._idle: list[_Worker] = []
        self._hung: set[_Worker] = set()
        self.abandoned = 0
        """Calls given up since the start, whether or not their thread came back."""

    @property
    def hung(self) -> int:
        """Threads that run a call nobody waits for."""
        return len(self._hung)

    async def run(self, function: Callable[..., Any], *args: Any) -> Any:
        """Return `function(*args)`, computed in a thread.

        A cancelled wait leaves the thread behind and counts it as hung until the function returns.

        Raises:
          Exception: whatever the function raised.
        """
        worker = self._idle.pop() if self._idle else _Worker(f"{self._name}-{next(self._numbers)}")
        loop = asyncio.get_running_loop()
        outcome = loop.create_future()

        def deliver(result: Any, error: BaseException | None) -> None:
            self._hung.discard(worker)
            self._idle.append(worker)
            if not outcome.done():
                outcome.set_result((result, error))

        worker.jobs.put(lambda: _execute(function, args, loop, deliver))
        try:
            result, error = await outcome
        except asyncio.CancelledError:
            if outcome.cancelled():  # otherwise the answer came in the very moment of giving up
                self._hung.add(worker)
                self.abandoned += 1
            raise
        if error is not None:
            raise error
        return result

    def close(self) -> None:
        """End the idle threads."""
        while self._idle:
            self._idle.pop().jobs.put(None)


def _execute(
    function: Callable[..., Any],
    args: tuple[Any, ...],
    loop: asyncio.AbstractEventLoop,
    deliver: Callable[[Any, BaseException | None], None],
) -> None:
    result: Any = None
    failure: BaseException | None = None
    try:
        result = function(*args)
    except BaseException as error:  # top of the thread's loop: the error belongs to the one who waits
        # Raised there, SystemExit would end the event loop, and StopIteration means something else.
        harmless = isinstance(error, Exception) and not isinstance(error, StopIteration)
        failure = error if harmless else RuntimeError(f"{type(error).__name__}: {error}")
    with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
        loop.call_soon_threadsafe(deliver, result, failure)
