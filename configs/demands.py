"""What the pools of a configuration take of a cluster."""

from __future__ import annotations

from configs.placement import Demand
from configs.schema import RunConfig

__all__ = ["demands"]


def demands(config: RunConfig) -> list[Demand]:
    """Return the demand of every pool that takes anything, in the order in which pools are started."""
    rollout, learner, inference = config.rollout, config.learner, config.rollout.inference
    found = [
        *(
            Demand.of(f"model.{name}", part.replicas, part.num_cpus, part.num_gpus, part.placement)
            for name, part in config.rewards.models.items()
        ),
        Demand.of("learner", learner.ranks, learner.num_cpus, learner.num_gpus, learner.placement),
        *(
            Demand.of(f"reward.{name}", part.replicas, part.num_cpus, part.num_gpus, part.placement)
            for name, part in config.rewards.components.items()
        ),
        Demand.of("inference", inference.actors, inference.num_cpus, inference.num_gpus, inference.placement),
        Demand.of("rollout", rollout.workers, rollout.num_cpus, rollout.num_gpus, rollout.placement),
    ]
    return [demand for demand in found if demand.members and demand.each]
