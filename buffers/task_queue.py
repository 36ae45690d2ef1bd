"""The groups that are still to be admitted: those reopened after a restart, then the task stream."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Protocol

from buffers.trajectory import Task

__all__ = ["TaskCursor", "TaskQueue"]


class TaskCursor(Protocol):
    """The task stream: ordinal k is always the same task."""

    @property
    def name(self) -> str:
        """Source of its slots."""
        ...

    @property
    def cursor(self) -> int:
        """Ordinal of the next group."""
        ...

    def next_group(self) -> tuple[int, int, Task]:
        """Return (epoch, position, task) of the group at the cursor, and advance."""
        ...


class TaskQueue:
    """Yields every group once, in the order of identity."""

    def __init__(self, tasks: TaskCursor) -> None:
        self.reopening: deque[tuple[int, tuple[int, int, Task], Mapping[int, int]]] = deque()
        """As `take` returns them."""
        self._tasks = tasks

    @property
    def issued(self) -> int:
        """Groups that the task stream has given."""
        return self._tasks.cursor

    def reopen(self, ordinal: int, group: tuple[int, int, Task], attempts: Mapping[int, int]) -> None:
        """Put a group before the task stream; `attempts` holds the last attempt of each sample."""
        self.reopening.append((ordinal, group, {sample: attempt + 1 for sample, attempt in attempts.items()}))

    def take(self) -> tuple[int, tuple[int, int, Task], Mapping[int, int]]:
        """Return (ordinal, (epoch, position, task), sample -> next attempt where it had some) of the next group."""
        if self.reopening:
            return self.reopening.popleft()
        return self._tasks.cursor, self._tasks.next_group(), {}
