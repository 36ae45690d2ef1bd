"""Which worker may take which slots.

A language sample can be generated anywhere. A fragment of an environment lane belongs where the lane
lives: in the process that holds its episode. Lanes are given out in equal shares, a lane that has lost
its worker goes to the next one with room, and where a worker joins, lanes move to it between fragments.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

from buffers.groups import Member

__all__ = ["Affinity", "Anywhere", "ByLane"]


class Affinity(Protocol):
    """Says who may take what; asked with every lease."""

    def may_take(self, member: Member, worker: str) -> bool:
        """Return whether a pending slot may go to a worker."""
        ...

    def taken(self, member: Member, worker: str) -> None:
        """The worker got the slot."""
        ...

    def workers(self, names: Sequence[str]) -> None:
        """These workers are there now."""
        ...


class Anywhere:
    """Every worker may take every slot."""

    def may_take(self, member: Member, worker: str) -> bool:
        return True

    def taken(self, member: Member, worker: str) -> None:
        """Nothing to remember."""

    def workers(self, names: Sequence[str]) -> None:
        """Nothing to remember."""


class ByLane:
    """Slots of one lane (`slot.task`) stay with one worker."""

    def __init__(self, lanes: int) -> None:
        self._lanes = lanes
        self._owner: dict[int, str] = {}
        """lane -> worker"""
        self._owned: dict[str, int] = {}
        """worker -> lanes"""

    def may_take(self, member: Member, worker: str) -> bool:
        owner = self._owner.get(member.slot.task)
        if owner == worker:
            return True
        if self._owned.get(worker, 0) >= self._share:
            return False
        return owner is None or self._owned[owner] > self._share

    def taken(self, member: Member, worker: str) -> None:
        lane = member.slot.task
        before = self._owner.get(lane)
        if before != worker:
            if before is not None:
                self._owned[before] -= 1
            self._owner[lane] = worker
            self._owned[worker] = self._owned.get(worker, 0) + 1

    def workers(self, names: Sequence[str]) -> None:
        gone = self._owned.keys() - set(names)
        self._owner = {lane: worker for lane, worker in self._owner.items() if worker not in gone}
        self._owned = {name: self._owned.get(name, 0) for name in names}

    @property
    def _share(self) -> int:
        return math.ceil(self._lanes / max(1, len(self._owned)))
