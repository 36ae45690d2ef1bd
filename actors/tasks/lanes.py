"""The task cursor of a decision run: which fragment of which lane comes next.

    ordinal k -> round k // lanes, lane k % lanes        (`epoch` and `task` of the slot)

A lane is one endless sequence of episodes; its fragments of consecutive rounds follow one another.
"""

from __future__ import annotations

from actors.tasks.source import settings_digest
from actors.tasks.stream import TaskGroup
from buffers.identity import GroupKey
from buffers.trajectory import Task
from configs.decision import EnvironmentConfig

__all__ = ["LaneStream", "lane_stream"]


class LaneStream:
    """Rounds over all lanes, without end."""

    def __init__(self, name: str, lanes: int, fingerprint: str) -> None:
        self.name, self.fingerprint, self.tasks_per_epoch = name, fingerprint, lanes
        self._next = 0

    @property
    def cursor(self) -> int:
        """Ordinal of the next fragment."""
        return self._next

    def seek(self, ordinal: int) -> None:
        """Continue with the fragment at `ordinal`.

        Raises:
          ValueError: `ordinal` is negative.
        """
        if ordinal < 0:
            raise ValueError(f"ordinal is {ordinal}; it must be >= 0")
        self._next = ordinal

    def next_group(self) -> TaskGroup:
        """Return the fragment at the cursor and advance."""
        group = self.task_at(self._next)
        self._next += 1
        return group

    def task_at(self, ordinal: int) -> TaskGroup:
        """Return the fragment at `ordinal` without moving the cursor."""
        turn, lane = self.locate(ordinal)
        return TaskGroup(turn, lane, Task(source=self.name, index=lane, prompt="", answer=""))

    def locate(self, ordinal: int) -> tuple[int, int]:
        """Return (round, lane) of an ordinal."""
        return divmod(ordinal, self.tasks_per_epoch)

    def group_key(self, ordinal: int) -> GroupKey:
        """Return the identity of the slot at an ordinal."""
        return GroupKey(self.name, *self.locate(ordinal))


def lane_stream(section: EnvironmentConfig, seed: int) -> LaneStream:
    """Return the cursor over the lanes of an environment section."""
    name = str(section.backend.get("id", section.backend["target"]))
    digest = settings_digest({"backend": section.backend, "seed": seed, "steps": section.fragment_length})
    return LaneStream(name, section.lanes, digest)
