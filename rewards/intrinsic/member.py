"""One scoring server as an actor hosts it: the component, its server, and the way to the learner."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

from buffers.environment_spec import EnvironmentSpec
from buffers.scores import Sample, Score
from buffers.transport import Handle, HandleSet
from configs.errors import RunError
from configs.schema import RunConfig
from rewards.intrinsic import build_model
from rewards.intrinsic.base import State
from rewards.intrinsic.outbox import Outbox
from rewards.intrinsic.scorer import IntrinsicScorer
from rewards.server import RewardServer

__all__ = ["IntrinsicMember", "build"]

LEARNER = "intrinsic_learner"


class IntrinsicMember:
    """Answers `score`, `install` and `ping`; told of the learner by `attach` and `detach`."""

    def __init__(self, server: RewardServer, scorer: IntrinsicScorer, outbox: Outbox, learners: HandleSet) -> None:
        self._server, self._scorer, self._outbox, self._learners = server, scorer, outbox, learners
        self._sending = asyncio.get_running_loop().create_task(outbox.run())

    async def score(self, samples: Sequence[Sample]) -> list[Score]:
        """Return one score per sample, in order; see `IntrinsicScorer`."""
        return await self._server.score(samples)

    def install(self, version: int, state: State) -> int:
        """Serve a version that the learner published; return the one served, which may be newer."""
        return self._scorer.install(version, state)

    def attach(self, pool: str, handle: Handle) -> None:
        """The learner is there."""
        if pool == self._learners.pool:
            self._learners.attach(handle)

    def detach(self, pool: str, name: str) -> None:
        """The learner is gone; its last version is served until there is another."""
        if pool == self._learners.pool:
            self._learners.detach(name)

    def ping(self) -> dict[str, Any]:
        """Return the counters.

        Raises:
          RunError: threads hang, or what sends captions to the learner ended.
        """
        if not self._server.healthy():
            raise RunError("the scoring server has too many hung threads; it must be replaced")
        if self._sending.done() and not self._sending.cancelled():
            raise RunError(f"captions are no longer sent to the learner: {self._sending.exception()}")
        return dict(self.stats())

    def stats(self) -> dict[str, float | str]:
        """Return the server's counters, the version served, and what became of captions sent."""
        return {
            **self._server.stats(),
            "version": self._scorer.model.version,
            "scored_captions": self._scorer.scored_captions,
            "outbox": self._outbox.waiting,
            "outbox_dropped": self._outbox.dropped,
            "outbox_failed": self._outbox.failed,
        }

    async def close(self) -> None:
        self._sending.cancel()
        self._server.close()
        self._scorer.close()


async def build(config: RunConfig, name: str, describe: Callable[[], EnvironmentSpec] | None = None) -> IntrinsicMember:
    """Build a scoring server inside its own process.

    Args:
      name: that its scores carry.
      describe: returns what a decision policy acts in; None for language policies.

    Raises:
      ConfigError: the configuration names no usable intrinsic reward.
    """
    torch.set_num_threads(1)
    spec = describe() if describe else None
    learners = HandleSet(LEARNER)
    outbox = Outbox(learners, config.cluster.call_deadline_s)
    scorer = IntrinsicScorer(partial(build_model, config, spec), outbox, spec=spec)
    server = RewardServer(
        scorer, name=name, deadline_s=config.exploration.deadline_s, rng=random.Random(f"{config.seed}/{name}")
    )
    await server.start()
    return IntrinsicMember(server, scorer, outbox, learners)
