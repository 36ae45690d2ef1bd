"""One scoring server as an actor hosts it: the component, its server, and the way to the learner."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial

import torch

from buffers.environment_spec import EnvironmentSpec
from buffers.transport import HandleSet
from configs.schema import RunConfig
from rewards.intrinsic import build_model
from rewards.intrinsic.met import Met
from rewards.intrinsic.scorer import IntrinsicScorer
from rewards.online.outbox import Outbox
from rewards.online.teaching import TeachingMember
from rewards.online.tensors import State
from rewards.server import RewardServer

__all__ = ["IntrinsicMember", "build"]

LEARNER = "intrinsic_learner"


class IntrinsicMember(TeachingMember):
    """Answers `install`, beside what every member of its kind does; the scorer itself passes captions on."""

    def __init__(self, server: RewardServer, scorer: IntrinsicScorer, outbox: Outbox[Met], learners: HandleSet) -> None:
        super().__init__(server, outbox, learners)
        self._scorer = scorer

    @property
    def version(self) -> int:
        return self._scorer.model.version

    def install(self, version: int, state: State) -> int:
        """Serve a version that the learner published; return the one served, which may be newer."""
        return self._scorer.install(version, state)

    def stats(self) -> dict[str, float | str]:
        """Return the counters, that of captions scored among them."""
        return {**super().stats(), "scored_captions": self._scorer.scored_captions}


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
    outbox = Outbox(learners, config.cluster.call_deadline_s, Met)
    scorer = IntrinsicScorer(partial(build_model, config, spec), outbox, spec=spec)
    server = RewardServer(
        scorer,
        name=name,
        deadline_s=config.exploration.deadline_s,
        rng=random.Random(f"{config.seed}/{name}"),
    )
    await server.start()
    return IntrinsicMember(server, scorer, outbox, learners)
