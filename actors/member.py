"""What the supervisor is told of a pool: how to make a member, what it costs, who must know of it."""

from __future__ import annotations

from dataclasses import dataclass, field

from configs.placement import Demand, PlacementConfig
from configs.registry import Deferred
from configs.scaling import ScalingConfig

__all__ = ["MemberSpec"]


@dataclass(frozen=True, kw_only=True)
class MemberSpec:
    """How to make a member of a pool."""

    pool: str
    factory: Deferred
    """Builds the plain object, inside the actor's process."""
    indexed: bool = False
    """Call the factory with the member's seat as last argument: the lowest number that no live member has."""
    num_cpus: float = 0.0
    num_gpus: float = 0.0
    placement: PlacementConfig = field(default_factory=PlacementConfig)
    together: int = 1
    """Members that are started at once: those that a placement is about."""
    max_restarts: int = 0
    max_members: int | None = None
    """Largest size that the pool may be scaled to; None is any."""
    scaling: ScalingConfig = field(default_factory=ScalingConfig)
    attached_to: tuple[str, ...] = ()
    """Pools whose members are told when a member of this pool comes or goes."""
    drains: bool = False
    """Call the object's `drain` before it ends because its pool shrinks: it still holds something for others."""
    closes: bool = False
    """Call the object's `close` when the run ends: it holds something that would outlive its process."""
    own_pulse: bool = False
    """Heartbeats get a thread of their own: `ping` answers also while the object's loop hangs, and must say so then."""
    environment: dict[str, str] = field(default_factory=dict)
    registered_as: str = ""
    """Name under which other processes find the member."""

    @property
    def demand(self) -> Demand:
        """What the members that start at once take of a cluster."""
        return Demand.of(self.pool, self.together, self.num_cpus, self.num_gpus, self.placement)
