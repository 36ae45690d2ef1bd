"""What every scoring server of a reward that learns does: it scores, and passes on what there is to learn from."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from buffers.scores import Sample, Score
from buffers.transport import HandleSet, Listening
from configs.errors import RunError
from rewards.online.outbox import Outbox
from rewards.server import RewardServer

__all__ = ["TeachingMember"]


class TeachingMember(Listening):
    """Answers `score` and `ping`; calls the learner, and whom else a component asks."""

    def __init__(self, server: RewardServer, outbox: Outbox[Any], *called: HandleSet) -> None:
        super().__init__(*called)
        self._server, self._outbox = server, outbox
        self._sending = asyncio.get_running_loop().create_task(outbox.run())

    @property
    def version(self) -> int:
        """The version that is served."""
        raise TypeError(f"{type(self).__name__} does not implement version")

    async def score(self, samples: Sequence[Sample], patient: bool = True) -> list[Score | None]:
        """Return one score per sample, in order; see `RewardServer.score`."""
        return await self._server.score(samples, patient)

    def ping(self) -> dict[str, Any]:
        """Return the counters and the load.

        Raises:
          RunError: threads hang, or what sends lessons to the learner ended.
        """
        if not self._server.healthy():
            raise RunError("the scoring server has too many hung threads; it must be replaced")
        if self._sending.done() and not self._sending.cancelled():
            raise RunError(f"lessons are no longer sent to the learner: {self._sending.exception()}")
        return {**self.stats(), "load": self._server.load()}

    def stats(self) -> dict[str, float | str]:
        """Return the server's counters, the version served, and what became of lessons."""
        return {
            **self._server.stats(),
            "version": self.version,
            "outbox": self._outbox.waiting,
            "outbox_dropped": self._outbox.dropped,
            "outbox_failed": self._outbox.failed,
        }

    async def drain(self) -> None:
        """Return once the learner has everything that was scored here."""
        await self._outbox.drain()

    async def close(self) -> None:
        """Let everything go; no call is under way."""
        self._sending.cancel()
        await self._server.end()
