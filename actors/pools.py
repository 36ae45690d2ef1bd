"""Which pools generate: what the composition root hands to the supervisor."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from actors.member import MemberSpec
from configs.registry import Deferred
from configs.schema import RunConfig

__all__ = ["pools"]


def pools(
    config: RunConfig, model_folder: Path, askers: Sequence[str], receivers: Sequence[Callable[[], Any]]
) -> Iterator[tuple[MemberSpec, int]]:
    """Yield (specification, members) of the pools of a configuration, in the order in which they are started.

    Args:
      askers: pools that ask the policy for log-probabilities.
      receivers: factories of weights receivers, by the seat of whoever holds the policy.
    """
    rollout, inference = config.rollout, config.rollout.inference
    most = rollout.policies if config.publish.backend == "collective" else None
    factory = Deferred("actors.worker:build", (config, model_folder, receivers))
    if config.is_decision:
        factory = Deferred("actors.lane_worker:build", (config, receivers))
    if inference.actors:
        yield MemberSpec(
            pool="inference", factory=Deferred("actors.inference:build", (config, receivers)), indexed=True,
            num_cpus=inference.num_cpus, num_gpus=inference.num_gpus, placement=inference.placement,
            together=inference.actors, max_restarts=inference.max_restarts, max_members=most,
            attached_to=("rollout",), scaling=inference.scaling,
        ), inference.actors  # fmt: skip
        factory, most = Deferred("actors.lane_worker:build_asking", (config,)), None
    yield MemberSpec(
        pool="rollout", factory=factory, indexed=True, num_cpus=rollout.num_cpus, num_gpus=rollout.num_gpus,
        placement=rollout.placement, together=rollout.workers, max_restarts=rollout.max_restarts,
        max_members=most, attached_to=("buffer", *askers), own_pulse=config.is_decision,
        scaling=rollout.scaling,
    ), rollout.workers  # fmt: skip
