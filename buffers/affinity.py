"""Which worker may take which slots.

A language sample can be generated anywhere. A fragment of an environment lane belongs where the lane
lives: in the process that holds its episode. Lanes are given out in equal shares, a lane that has lost
its worker goes to the next one with room, and where a worker joins, lanes move to it between fragments.
With its first fragment of a lane a worker is told how to get to where the lane stands (`buffers.trail`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import pyarrow as pa

from buffers.groups import Member
from buffers.identity import Slot
from buffers.trail import Trail, Trails, pieces

__all__ = ["Affinity", "Anywhere", "ByLane"]


class Affinity(Protocol):
    """Says who may take what; asked with every lease."""

    def may_take(self, member: Member, worker: str) -> bool:
        """Return whether a pending slot may go to a worker."""
        ...

    def taken(self, member: Member, worker: str) -> Trail | None:
        """The worker gets the slot; return what it has to know to go on where others were."""
        ...

    def brought(self, table: pa.Table) -> None:
        """Trajectories came back, each of a slot that was taken."""
        ...

    def failed(self, slot: Slot) -> None:
        """Nothing will come of a slot that was taken: what it was tried in broke."""
        ...

    def lost(self, worker: str) -> None:
        """Nothing will come of what the worker took."""
        ...

    def workers(self, names: Sequence[str]) -> None:
        """These workers are there now."""
        ...


class Anywhere:
    """Every worker may take every slot."""

    def may_take(self, member: Member, worker: str) -> bool:
        return True

    def taken(self, member: Member, worker: str) -> None:
        """Nothing to remember, and nothing to know."""

    def brought(self, table: pa.Table) -> None:
        """Nothing to remember."""

    def failed(self, slot: Slot) -> None:
        """Nothing to remember."""

    def lost(self, worker: str) -> None:
        """Nothing to remember."""

    def workers(self, names: Sequence[str]) -> None:
        """Nothing to remember."""


class ByLane:
    """Slots of one lane (`slot.task`) stay with one worker."""

    def __init__(self, lanes: int, trails: Trails | None = None) -> None:
        """Begin with lanes that stand where `trails` say; None: nowhere."""
        self._lanes, self._trails = lanes, trails or Trails()
        self._out: dict[int, tuple[str, Slot]] = {}
        """lane -> who has its newest slot, until that comes back: a lane does not move meanwhile"""
        self._owner: dict[int, str] = {}
        """lane -> worker"""
        self._owned: dict[str, int] = {}
        """worker -> lanes"""

    def may_take(self, member: Member, worker: str) -> bool:
        owner = self._owner.get(member.slot.task)
        if owner == worker:
            return True
        if member.slot.task in self._out or self._owned.get(worker, 0) >= self._share:
            return False
        return owner is None or self._owned[owner] > self._share

    def taken(self, member: Member, worker: str) -> Trail | None:
        lane = member.slot.task
        before = self._owner.get(lane)
        self._out[lane] = worker, member.slot
        if before == worker:
            return None
        if before is not None:
            self._owned[before] -= 1
        self._owner[lane] = worker
        self._owned[worker] = self._owned.get(worker, 0) + 1
        return self._trails.of(lane)

    def brought(self, table: pa.Table) -> None:
        for slot in zip(*(table[name].to_pylist() for name in Slot._fields), strict=True):
            self._returned(Slot(*slot))
        for piece in pieces(table):
            self._trails.follow(piece)

    def failed(self, slot: Slot) -> None:
        self._returned(slot)
        self._trails.forget(slot.task)

    def lost(self, worker: str) -> None:
        self._out = {lane: out for lane, out in self._out.items() if out[0] != worker}
        for lane in [lane for lane, owner in self._owner.items() if owner == worker]:
            del self._owner[lane]
            self._owned[worker] -= 1

    def workers(self, names: Sequence[str]) -> None:
        gone = self._owned.keys() - set(names)
        self._owner = {lane: worker for lane, worker in self._owner.items() if worker not in gone}
        self._owned = {name: self._owned.get(name, 0) for name in names}

    def _returned(self, slot: Slot) -> None:
        if self._out.get(slot.task, ("", slot))[1] == slot:
            self._out.pop(slot.task, None)

    @property
    def _share(self) -> int:
        return math.ceil(self._lanes / max(1, len(self._owned)))
