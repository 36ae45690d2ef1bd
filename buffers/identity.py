"""Who a piece of work is: slot, attempt, trajectory.

A slot `(source, epoch, task, sample)` is a place in the stream that must be filled exactly once.
An attempt is one try at filling it; a trajectory is one thing that an attempt produced (a rollout
program may return several, for instance the branches of a tree).
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["GroupKey", "Slot", "attempt_id", "trajectory_id"]


class GroupKey(NamedTuple):
    """The samples of one task in one epoch; orders groups by identity."""

    source: str
    epoch: int
    task: int

    def __str__(self) -> str:
        return f"{self.source}:{self.epoch}:{self.task}"


class Slot(NamedTuple):
    """A unit of work; orders by identity, and keys the sampling random numbers."""

    source: str
    epoch: int
    task: int
    sample: int

    @property
    def group(self) -> GroupKey:
        return GroupKey(self.source, self.epoch, self.task)

    def __str__(self) -> str:
        return f"{self.source}:{self.epoch}:{self.task}:{self.sample}"

    @classmethod
    def parse(cls, text: str) -> Slot:
        """Inverse of `str(slot)`."""
        source, epoch, task, sample = text.rsplit(":", 3)
        return cls(source, int(epoch), int(task), int(sample))


def attempt_id(slot: Slot, attempt: int) -> str:
    """Return the id of one try at a slot."""
    return f"{slot}.{attempt}"


def trajectory_id(slot: Slot, attempt: int, node: int = 0) -> str:
    """Return the id of the `node`-th trajectory that an attempt produced."""
    return f"{slot}.{attempt}.{node}"
