"""What the supervisor is told of a pool: how to make a member, what it costs, who must know of it."""

from __future__ import annotations

from dataclasses import dataclass, field

from configs.registry import Deferred

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
    max_restarts: int = 0
    max_members: int | None = None
    """Largest size that the pool may be scaled to; None is any."""
    attached_to: tuple[str, ...] = ()
    """Pools whose members are told when a member of this pool comes or goes."""
    environment: dict[str, str] = field(default_factory=dict)
    registered_as: str = ""
    """Name under which other processes find the member."""
