"""Rollout workers of decision policies: with a policy of their own, or asking the inference pool."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from actors.environments import build as build_lanes
from actors.lane_rollouts import LaneRollouts, lane_settings
from actors.policy_engine import build_engine
from actors.shared_policy import SharedPolicy
from actors.shared_rollouts import SharedLaneRollouts
from actors.worker import RolloutWorker
from buffers.transport import Handle
from configs.schema import RunConfig
from learners.models.decision import build_policy
from learners.models.weights import Receiver

__all__ = ["AskingWorker", "build", "build_asking"]


class AskingWorker(RolloutWorker):
    """A rollout worker that is told who may be asked."""

    def __init__(self, rollouts: SharedLaneRollouts, policy: SharedPolicy, *, message_samples: int) -> None:
        super().__init__(rollouts, policy, message_samples=message_samples, watch=rollouts.watch)
        self._policy = policy

    def attach(self, pool: str, handle: Handle) -> None:
        """An inference actor joined."""
        self._policy.members.attach(handle)

    async def dismiss(self, pool: str, name: str, deadline_s: float) -> None:
        """Ask an inference actor nothing more; see `HandleSet.dismiss`."""
        await self._policy.members.dismiss(name, deadline_s)

    def detach(self, pool: str, name: str, fault: str = "") -> None:
        """An inference actor left."""
        self._policy.members.detach(name)


def build(config: RunConfig, receivers: Sequence[Callable[[], Receiver]], seat: int) -> RolloutWorker:
    """Build the worker of a seat inside its own process, with environments and a policy.

    Args:
      receivers: factories by seat; beyond their number they are all alike.
    """
    torch.set_num_threads(config.rollout.threads)
    lanes = build_lanes(config.environment, config.environment.lanes, config.seed)
    rollouts = LaneRollouts(build_engine(config, lanes.spec), lanes, **lane_settings(config))
    receiver = receivers[seat % len(receivers)]()
    return RolloutWorker(rollouts, receiver, message_samples=message_samples(config), watch=rollouts.watch)


def build_asking(config: RunConfig, seat: int) -> AskingWorker:
    """Build the worker of a seat inside its own process, with environments alone."""
    torch.set_num_threads(config.rollout.threads)
    lanes = build_lanes(config.environment, config.environment.lanes, config.seed)
    network, cluster = build_policy(config.policy, lanes.spec, config.seed), config.cluster
    # Until a lost actor is noticed, and another has started in its place.
    deadline_s = cluster.heartbeat_deadline_s + cluster.start_deadline_s
    policy = SharedPolicy(network, seat=seat, deadline_s=deadline_s)
    rollouts = SharedLaneRollouts(policy, lanes, **lane_settings(config))
    return AskingWorker(rollouts, policy, message_samples=message_samples(config))


def message_samples(config: RunConfig) -> int:
    """Return how many fragments a worker collects: lanes keep step, so those of a half are full together."""
    return max(1, config.environment.lanes // (config.rollout.workers * config.environment.halves))
