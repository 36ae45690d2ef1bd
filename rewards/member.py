"""One replica of a reward component as an actor hosts it: the server, and what the supervisor asks."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from buffers.scores import Sample, Score
from buffers.transport import HandleSet, Listening
from configs.errors import RunError
from configs.rewarding import RewardComponentConfig
from rewards import build_server
from rewards.endpoints.models import model_sets
from rewards.policy import Policy
from rewards.reference import Reference
from rewards.server import RewardServer

__all__ = ["RewardMember", "build"]


class RewardMember(Listening):
    """Answers `score` and `ping`; told of whom its component asks (policy, models) by `attach` and `detach`."""

    def __init__(self, name: str, server: RewardServer, asked: Iterable[HandleSet]) -> None:
        self._name, self._server = name, server
        super().__init__(*asked)

    async def score(self, samples: Sequence[Sample], patient: bool = True) -> list[Score | None]:
        """Return one score per sample, in order; see `RewardServer.score`."""
        return await self._server.score(samples, patient)

    def ping(self) -> dict[str, Any]:
        """Return the server's counters and load.

        Raises:
          RunError: too many of its threads hang; only a new process gets rid of them.
        """
        if not self._server.healthy():
            raise RunError(f"reward server {self._name} has too many hung threads; it must be replaced")
        return {**self._server.stats(), "load": self._server.load()}

    async def close(self) -> None:
        """Let everything go; no call is under way."""
        await self._server.end()


async def build(
    section: RewardComponentConfig,
    name: str,
    seed: int,
    models: Sequence[str] = (),
    reference_folder: Path | None = None,
) -> RewardMember:
    """Build a replica inside its own process.

    Args:
      models: names of `rewards.models`.
      reference_folder: of the policy before its first update; None: nobody knows one.
    """
    workers = HandleSet("rollout")
    pools = model_sets(models)
    policy, rng = Policy(workers, section.deadline_s), random.Random(f"{seed}/{name}")
    asked = {"policy": policy, "reference": Reference(reference_folder), "model_pools": pools}
    server = build_server(section, name=name, rng=rng, **asked)
    await server.start()
    return RewardMember(name, server, (workers, *pools.values()))
