"""Settings of the reward graph and its pools."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from configs.errors import one_of, require
from configs.model_pool import ModelPoolConfig
from configs.placement import PlacementConfig
from configs.scaling import ScalingConfig

__all__ = ["GateConfig", "RewardComponentConfig", "RewardsConfig"]

Component = dict[str, Any]


@dataclass(kw_only=True)
class RewardComponentConfig:
    """One named component of the reward graph and the pool that serves it."""

    component: Component = field(default_factory=dict)
    weight: Any = 1.0
    """A number, or a schedule over updates: `{target: linear, start: 1.0, end: 0.0, updates: 200}`."""
    credit: str = "outcome"
    """outcome: its value counts in the total. steps: its span values are the rewards of steps. both."""
    transforms: list[Component] = field(default_factory=list)
    """What is done to its score before it counts, in order: `[{target: clip, low: 0.0}, ...]`."""
    replicas: int = 1
    concurrency: int = 4
    """Calls that one replica works on at a time."""
    batch_size: int = 64
    """Samples per call."""
    deadline_s: float = 10.0
    """For one call, retries excluded."""
    retries: int = 2
    breaker_failures: int = 5
    """Failed calls in a row that open the circuit breaker."""
    breaker_reset_s: float = 5.0
    num_cpus: float = 0.0
    num_gpus: float = 0.0
    """Of one replica; replicas may share a GPU: 0.5."""
    placement: PlacementConfig = field(default_factory=PlacementConfig)
    max_restarts: int = 20
    scaling: ScalingConfig = field(default_factory=ScalingConfig)


@dataclass(kw_only=True)
class GateConfig:
    """A component that must be passed, or the total is `floor` and no step has a reward."""

    component: str
    above: float = 0.0
    """Its value must be more than this."""
    floor: float = 0.0


@dataclass(kw_only=True)
class RewardsConfig:
    """The reward graph: named components, gates in their order, then one combine."""

    components: dict[str, RewardComponentConfig] = field(default_factory=dict)
    models: dict[str, ModelPoolConfig] = field(default_factory=dict)
    """Language models that the run serves to judges and annotators: `endpoint: {model_pool: NAME}`."""
    gates: list[GateConfig] = field(default_factory=list)
    combine: Component = field(default_factory=lambda: {"target": "weighted_sum"})
    """How values become a total; `ignore_invalid: [NAME]` lets a component be left out where it is invalid."""

    def __post_init__(self) -> None:
        for name, model in self.models.items():
            model.check(f"rewards.models.{name}")
        for name, c in self.components.items():
            where = f"rewards.components.{name}"
            require(
                bool(c.component), f"{where}.component", c.component, "name a target", "see `launch.py list rewards`"
            )
            one_of(f"{where}.credit", c.credit, ("outcome", "steps", "both"))
            c.scaling.check_count(f"{where}.replicas", c.replicas)
            require(c.deadline_s > 0, f"{where}.deadline_s", c.deadline_s, "be > 0", "10 suits rules, 60 suits judges")
            require(c.retries >= 0, f"{where}.retries", c.retries, "be >= 0", "2 is usual")
