"""What the supervisor knows of one pool: its members, who is on the way in or out, and how it scales."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from actors.member import MemberSpec
from actors.restarts import RestartBudget
from actors.scaling import Decision, ScalingState
from configs.errors import DataError

__all__ = ["Pool", "Spawned"]


class Spawned(Protocol):
    """A handle that can also be built and killed."""

    name: str

    async def build(self, deadline_s: float) -> int: ...

    async def call(self, method: str, *args: Any, deadline_s: float, awaiting: str) -> Any: ...

    async def ping(self, deadline_s: float) -> Any: ...

    def kill(self) -> None: ...

    async def close(self, deadline_s: float) -> None:
        """Have the object remove what would outlive its process; then kill it, also where that fails."""
        ...


@dataclass
class Pool:
    """One pool of a run."""

    spec: MemberSpec
    wanted: int
    budget: RestartBudget
    members: dict[str, Spawned] = field(default_factory=dict)
    leaving: dict[str, Spawned] = field(default_factory=dict)
    """They finish what they work on, and get nothing new."""
    starting: int = 0
    """Members on their way in, those whose replacement waits included."""
    joining: int = 0
    """Members of which others are still being told."""
    pids: dict[str, int] = field(default_factory=dict)
    seats: dict[str, int] = field(default_factory=dict)
    scaling: ScalingState = field(default_factory=ScalingState)
    decision: Decision | None = None
    """The last one."""
    ordinals: Iterator[int] = field(default_factory=itertools.count)

    @property
    def missing(self) -> int:
        return self.wanted - len(self.members) - self.starting

    def new_name(self) -> str:
        """Return a name that no member ever had, with the lowest free seat."""
        name = f"{self.spec.pool}-{next(self.ordinals)}"
        self.seats[name] = next(seat for seat in itertools.count() if seat not in self.seats.values())
        return name

    def by_seat(self) -> list[Spawned]:
        return [self.members[name] for name in sorted(self.members, key=self.seats.__getitem__)]

    def forget(self, name: str) -> Spawned | None:
        """Take a member out of every table; return it, or None where it is gone already."""
        member = self.members.pop(name, None) or self.leaving.pop(name, None)
        for table in (self.pids, self.seats):
            table.pop(name, None)
        return member

    def check_size(self, count: int) -> None:
        """Raise the DataError of a size that this pool cannot have."""
        spec, bounds = self.spec, self.spec.scaling
        refused = f"pool {spec.pool!r} cannot be scaled to {count}"
        if not spec.attached_to:
            raise DataError(f"{refused}; its size is fixed while a run goes on: start with another one")
        if spec.max_members is not None and count > spec.max_members:
            raise DataError(f"{refused}; this run was started for at most {spec.max_members}")
        if count < bounds.min or (bounds.max is not None and count > bounds.max):
            most = "any" if bounds.max is None else bounds.max
            raise DataError(f"{refused}; its bounds are {bounds.min} to {most}, see the pool's scaling.min and .max")

    def describe(self) -> dict[str, Any]:
        return {
            "wanted": self.wanted,
            "members": list(self.members),
            "leaving": list(self.leaving),
            "pids": dict(self.pids),
            "restarts": self.budget.made,
            "min": self.spec.scaling.min,
            "max": self.spec.scaling.max,
            "decision": asdict(self.decision) if self.decision else None,
        }
