"""One call of a component: in a thread or as a task, with a deadline, its answer checked."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Sequence
from typing import Any

from buffers.scores import Sample, Score, ScoreStatus
from rewards.answers import Failure, Stamp, checked
from rewards.base import Closing, Component, Versioned, Warm
from rewards.threads import WorkerThreads

__all__ = ["START_DEADLINE_S", "Caller"]

START_DEADLINE_S = 120.0
"""For a component's `warm`."""
DETAIL_CHARACTERS = 500


class Caller:
    """Calls one component; what does not come back in time is left behind, never waited for.

    A coroutine component that blocks the event loop stops its whole server: only the supervisor's
    heartbeat sees that. Blocking code belongs into a plain `score`, which runs in a thread.
    """

    def __init__(self, component: Component, *, name: str, version: int, deadline_s: float) -> None:
        self._component = component
        self._name = name
        self._version = version
        self._deadline_s = deadline_s
        self.threads = WorkerThreads(f"reward-{name}")

    def stamp(self, attempt: int, latency_s: float) -> Stamp:
        """Return the provenance of a score given now."""
        version = self._component.version if isinstance(self._component, Versioned) else self._version
        return Stamp(self._name, version, attempt, latency_s)

    def own_stats(self) -> dict[str, float]:
        """Return what the component itself counts, if it does."""
        own: dict[str, float] = getattr(self._component, "stats", dict)()
        return own

    async def warm(self, concurrency: int) -> None:
        """Let the component get ready; a failure shows again, with its text, in the first call."""
        if isinstance(self._component, Warm):
            await _bounded(asyncio.create_task(self.threads.run(self._component.warm, concurrency)), START_DEADLINE_S)

    async def close(self) -> None:
        """Let the component go what it holds, and end the idle threads."""
        if isinstance(self._component, Closing):
            await self._component.close()
        self.threads.close()

    async def call(self, samples: Sequence[Sample], attempt: int) -> list[Score] | Failure:
        """Return one stamped score per sample, or why this call has none."""
        loop = asyncio.get_running_loop()
        started = loop.time()
        # Taken before the call: a component that learns meanwhile has scored with at least this version.
        stamp = self.stamp(attempt, 0.0)
        outcome = await _bounded(asyncio.create_task(self._invoke(samples)), self._deadline_s)
        if outcome is None:
            what = f"component {self._name!r} gave no answer for {_ids(samples)} within {self._deadline_s:g} s"
            return Failure(ScoreStatus.TIMEOUT, what)
        if outcome.cancelled():
            return Failure(ScoreStatus.ERROR, f"component {self._name!r} cancelled itself")
        if (error := outcome.exception()) is not None:
            what = f"component {self._name!r}: {type(error).__name__}: {error}"
            return Failure(ScoreStatus.ERROR, what[:DETAIL_CHARACTERS])
        return checked(outcome.result(), len(samples), stamp._replace(latency_s=loop.time() - started))

    async def _invoke(self, samples: Sequence[Sample]) -> Any:
        if inspect.iscoroutinefunction(self._component.score):
            return await self._component.score(samples)
        return await self.threads.run(self._component.score, samples)


async def _bounded(task: asyncio.Task[Any], deadline_s: float) -> asyncio.Task[Any] | None:
    """Return the task once it is done, or None after `deadline_s`, without waiting for its end."""
    try:
        await asyncio.wait({task}, timeout=deadline_s)
    finally:
        if not task.done():
            task.cancel()
            task.add_done_callback(_forget)
    return task if task.done() else None


def _forget(task: asyncio.Task[Any]) -> None:
    # Reading the exception keeps asyncio from reporting it as never retrieved.
    if not task.cancelled():
        task.exception()


def _ids(samples: Sequence[Sample]) -> str:
    more = f" and {len(samples) - 1} more" if len(samples) > 1 else ""
    return f"{samples[0].id}{more}"
