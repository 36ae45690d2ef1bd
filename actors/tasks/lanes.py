"""The task cursor of a decision run: which fragment of which lane comes next.

    ordinal k -> round k // lanes, lane k % lanes        (`epoch` and `task` of the slot)

A lane is one endless sequence of episodes; its fragments of consecutive rounds follow one another.
"""

from __future__ import annotations

from actors.tasks.source import settings_digest
from actors.tasks.stream import Ordinals, TaskGroup
from buffers.trajectory import Task
from configs.decision import EnvironmentConfig

__all__ = ["LaneStream", "lane_stream"]


class LaneStream(Ordinals):
    """Rounds over all lanes, without end: a round is an epoch of as many tasks as there are lanes."""

    def __init__(self, name: str, lanes: int, fingerprint: str) -> None:
        self.name, self.fingerprint, self.tasks_per_epoch = name, fingerprint, lanes

    def task_at(self, ordinal: int) -> TaskGroup:
        turn, lane = self.locate(ordinal)
        return TaskGroup(turn, lane, Task(source=self.name, index=lane, prompt="", answer=""))


def lane_stream(section: EnvironmentConfig, seed: int) -> LaneStream:
    """Return the cursor over the lanes of an environment section."""
    name = str(section.backend.get("id", section.backend["target"]))
    digest = settings_digest({"backend": section.backend, "seed": seed, "steps": section.fragment_length})
    return LaneStream(name, section.lanes, digest)
