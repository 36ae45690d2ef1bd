"""One replica of a reward component as an actor hosts it: the server, and what the supervisor asks."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from buffers.scores import Sample, Score
from configs.errors import RunError
from configs.schema import RewardComponentConfig
from rewards import build_server
from rewards.server import RewardServer

__all__ = ["RewardMember", "build"]


class RewardMember:
    """Answers `score` and `ping`."""

    def __init__(self, name: str, server: RewardServer) -> None:
        self._name, self._server = name, server

    async def score(self, samples: Sequence[Sample]) -> list[Score]:
        """Return one score per sample, in order; see `RewardServer.score`."""
        return await self._server.score(samples)

    def ping(self) -> dict[str, Any]:
        """Return the server's counters.

        Raises:
          RunError: too many of its threads hang; only a new process gets rid of them.
        """
        if not self._server.healthy():
            raise RunError(f"reward server {self._name} has too many hung threads; it must be replaced")
        return dict(self._server.stats())

    def close(self) -> None:
        self._server.close()


async def build(section: RewardComponentConfig, name: str, seed: int) -> RewardMember:
    """Build a replica inside its own process."""
    server = build_server(section, name=name, rng=random.Random(f"{seed}/{name}"))
    await server.start()
    return RewardMember(name, server)
