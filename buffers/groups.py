"""Groups and their members: the states a slot passes through inside the buffer.

    PENDING -> LEASED -> RECEIVED -> DONE
       ^---------'  (worker lost, stale: a new attempt)

A group is open until every member is DONE; then it is filtered, and waits in the buffer for a batch.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field

from buffers.identity import GroupKey, Slot
from buffers.scores import Score, StepRewards
from buffers.trajectory import Task

__all__ = ["Group", "Member", "MemberState", "Row"]


class MemberState(enum.Enum):
    PENDING = "pending"
    LEASED = "leased"
    RECEIVED = "received"
    DONE = "done"


@dataclass(slots=True)
class Row:
    """One trajectory held by the buffer."""

    id: str
    node: int
    message: int
    index: int
    """Row `index` of payload message `message`."""
    oldest_version: int
    num_sampled: int
    runs: int
    """Number of weight versions that its tokens span."""
    reward: float | None = None
    steps: StepRewards | None = None
    """Rewards of its steps, beside `reward`."""
    scores: Mapping[str, Score] = field(default_factory=dict)
    """Of each reward component at arrival, unweighted."""
    stored: bool = False
    """Its payload is on disk."""
    scored: bool = False


@dataclass(slots=True)
class Member:
    """One slot of a group and its newest attempt."""

    slot: Slot
    attempt: int = 0
    state: MemberState = MemberState.PENDING
    worker: str = ""
    floor: int = 0
    """No token of this attempt is older than this weights version."""
    rows: list[Row] = field(default_factory=list)
    admitted: Future[None] | None = None
    """Done once the admission of this attempt is on disk."""

    @property
    def to_come(self) -> bool:
        """Return whether a worker still has to bring it, or its payload is on its way to the disk."""
        if self.state is MemberState.RECEIVED:
            return not all(row.stored for row in self.rows)
        return self.state is not MemberState.DONE

    @property
    def valid_rows(self) -> list[Row]:
        return [row for row in self.rows if row.reward is not None]


@dataclass(slots=True)
class Group:
    """The samples of one prompt."""

    key: GroupKey
    ordinal: int
    """Position in the task stream: the order of identity."""
    task: Task
    members: list[Member]
    started_at: float = -1.0
    """Clock time of the first lease; negative before."""
    completed: int = -1
    """Rank of completion; negative while open."""
    times_trained: int = 0
    trained_version: int = -1

    @property
    def complete(self) -> bool:
        return self.completed >= 0

    @property
    def valid_rows(self) -> list[Row]:
        return [row for member in self.members for row in member.rows if row.reward is not None]

    @property
    def floor(self) -> int | None:
        """Oldest version any of its tokens can have; None before the first lease."""
        floors = [m.floor for m in self.members if m.state is not MemberState.PENDING]
        return min(floors, default=None)
