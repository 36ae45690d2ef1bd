"""How the ranks' new weights get to the workers, and who is waited for on the way.

    every rank: publish(v) -> shared memory: workers look for themselves
                           -> collective: once more for receivers that answered and did not get it
                           -> object store: a push to each worker, in the background, one at a time

Nobody waits for a worker that is dead or stuck; `serve_late` serves whoever joined or woke up since.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

from buffers.transport import Handle
from configs.schema import RunConfig

__all__ = ["Delivery"]


class Delivery:
    """Publishes versions, and knows which worker was pushed which."""

    def __init__(
        self, config: RunConfig, ranks: Sequence[Handle], workers: Callable[[], Awaitable[Sequence[Handle]]]
    ) -> None:
        self.transfers_s: list[float] = []
        """Seconds of each version's first transfer."""
        self.published_bytes = 0
        self._config, self._ranks, self._workers = config, ranks, workers
        self._publication: tuple[int, Any] = (-1, None)
        """(version, reference to what was published)"""
        self._delivered: dict[str, int] = {}
        """worker -> version that it was pushed last (object store)"""
        self._pushes: dict[str, asyncio.Task[None]] = {}
        """worker -> push in flight: one at a time, so that a slow one holds up nobody and queues nothing"""
        self._delivering: asyncio.Task[None] | None = None

    async def publish(self, version: int) -> float:
        """Publish the ranks' weights as `version`; return the transfer's seconds."""
        first, others = self._ranks[0], self._ranks[1:]
        wait: Any = {"deadline_s": self._config.publish.deadline_s, "awaiting": f"publication of version {version}"}
        self._publication = (version, first.ref("publish", version))
        parts = [rank.call("publish", version, **wait) for rank in others]
        await self._deliver()
        stats, *_ = await asyncio.gather(first.call("publication", version, **wait), *parts)
        self.transfers_s.append(stats.transfer_s)
        self.published_bytes += stats.bytes
        for _ in range(self._config.rollout.policies):  # each time somebody is left behind, or all have it
            if not stats.missed:
                break
            stats = await self._publish_again()
        return float(stats.transfer_s)

    async def serve_late(self) -> None:
        """Serve whoever joined or woke up since the update, or whose push was lost."""
        if self._delivering is not None and self._delivering.done():
            self._delivering.result()
            self._delivering = None
        if self._delivering is None:
            self._delivering = asyncio.create_task(self._deliver())
        if self._config.publish.backend == "collective":
            wait: Any = {
                "deadline_s": self._config.cluster.call_deadline_s,
                "awaiting": "receivers without the newest weights",
            }
            if await self._ranks[0].call("waiting", **wait):
                await self._publish_again()

    def cancel(self) -> None:
        """Give up the pushes that are under way; `serve_late` begins again."""
        if self._delivering is not None:
            self._delivering.cancel()
            self._delivering = None
        for push in self._pushes.values():
            push.cancel()

    async def _publish_again(self) -> Any:
        """Send the newest version to those that lack it; return what it cost."""
        version = self._publication[0]
        wait: Any = {
            "deadline_s": self._config.publish.deadline_s,
            "awaiting": f"second publication of version {version}",
        }
        return (await asyncio.gather(*(rank.call("publish", version, **wait) for rank in self._ranks)))[0]

    async def _deliver(self) -> None:
        """Push the newest weights to every worker that lacks them (object store); wait for none of them."""
        if self._config.publish.backend != "object_store":
            return
        for worker in await self._workers():
            if worker.name not in self._pushes and self._delivered.get(worker.name) != self._publication[0]:
                push = self._pushes[worker.name] = asyncio.create_task(self._push(worker))
                push.add_done_callback(partial(self._pushed, worker.name))

    async def _push(self, worker: Handle) -> None:
        """Push to one worker until it has the newest version."""
        while self._delivered.get(worker.name) != self._publication[0]:
            version, publication = self._publication
            await worker.call(
                "receive",
                publication,
                deadline_s=self._config.publish.deadline_s,
                awaiting=f"delivery of version {version}",
            )
            self._delivered[worker.name] = version

    def _pushed(self, name: str, push: asyncio.Task[None]) -> None:
        """Forget a push; a worker that is dead or stuck is the supervisor's business, and served when it is back."""
        del self._pushes[name]
        push.cancelled() or push.exception()
