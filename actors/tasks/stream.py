"""The task cursor: ordinal k of the stream is always the same task.

    ordinal k -> epoch k // tasks_per_epoch, position k % tasks_per_epoch -> task

The position, not the index inside the source, is the `task` of a slot: consecutive groups have
consecutive identities, and "which slots were issued" follows from one number. A listed source is
split beforehand, and an epoch is a permutation of its training tasks. A generator is never scanned:
an epoch has as many positions as the generator has tasks, and a position whose task is held out
draws another task, keyed by (epoch, position, try).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import xxhash

from actors.tasks.permutation import permute
from actors.tasks.source import TaskSource
from actors.tasks.split import Split
from buffers.identity import GroupKey
from buffers.trajectory import Task
from configs.errors import ConfigError

__all__ = ["HeldOut", "Ordinals", "TaskGroup", "TaskStream"]

# With 99 % held out, a position exhausts its draws once in 10^44.
MAX_DRAWS = 10_000


class TaskGroup(NamedTuple):
    """What one ordinal of the stream stands for."""

    epoch: int
    position: int
    """Place within the epoch; the `task` of the slot identity."""
    task: Task


class Ordinals:
    """A cursor over ordinals; a subclass says in `task_at` what each stands for."""

    name: str
    """Source of the slots."""
    tasks_per_epoch: int
    _next: int = 0

    @property
    def cursor(self) -> int:
        """Ordinal of the next group; groups issued so far when the stream began at 0."""
        return self._next

    def seek(self, ordinal: int) -> None:
        """Continue with the group at `ordinal`.

        Raises:
          ValueError: `ordinal` is negative.
        """
        if ordinal < 0:
            raise ValueError(f"ordinal is {ordinal}; it must be >= 0")
        self._next = ordinal

    def next_group(self) -> TaskGroup:
        """Return the group at the cursor and advance."""
        group = self.task_at(self._next)
        self._next += 1
        return group

    def task_at(self, ordinal: int) -> TaskGroup:
        """Return the group at `ordinal` without moving the cursor."""
        raise TypeError(f"{type(self).__name__} does not implement task_at(ordinal)")

    def locate(self, ordinal: int) -> tuple[int, int]:
        """Return (epoch, position) of an ordinal."""
        return divmod(ordinal, self.tasks_per_epoch)

    def group_key(self, ordinal: int) -> GroupKey:
        """Return the identity that the slots of an ordinal share."""
        return GroupKey(self.name, *self.locate(ordinal))


class TaskStream(Ordinals):
    """Training tasks in a seeded order, for as many epochs as the run asks for."""

    def __init__(self, source: TaskSource, split: Split, *, seed: int, shuffle: bool = True) -> None:
        if len(source) == 0:
            raise ConfigError(f"tasks.train: source {source.name!r} is empty; it must hold at least one task")
        self._source = source
        self._split = split
        self._seed = seed
        self._shuffle = shuffle
        self._listed = _training_indices(source, split) if source.listed else None
        self.name = source.name
        self.tasks_per_epoch = len(source) if self._listed is None else len(self._listed)

    @property
    def fingerprint(self) -> str:
        return self._source.fingerprint

    def task_at(self, ordinal: int) -> TaskGroup:
        """Return the group at `ordinal` without moving the cursor.

        Raises:
          ConfigError: a generator yields held-out tasks only.
        """
        epoch, position = self.locate(ordinal)
        if self._listed is None:
            return TaskGroup(epoch, position, self._draw(epoch, position))
        place = self._permuted(position, epoch, 0)
        return TaskGroup(epoch, position, self._source.task(int(self._listed[place])))

    def _draw(self, epoch: int, position: int) -> Task:
        for attempt in range(MAX_DRAWS):
            task = self._source.task(self._permuted(position, epoch, attempt))
            if not self._split.holds_out(task.prompt):
                return task
        raise ConfigError(
            f"tasks.train: {MAX_DRAWS} draws from {self.name!r} were all held out; "
            "lower tasks.held_out_fraction, or widen the generator's settings"
        )

    def _permuted(self, position: int, epoch: int, attempt: int) -> int:
        if not self._shuffle and attempt == 0:
            return position
        key = xxhash.xxh3_64_intdigest(f"{self._seed}:{epoch}:{attempt}".encode())
        return permute(position, self.tasks_per_epoch, key)


class HeldOut:
    """The tasks that training never sees, in the order of the source."""

    def __init__(self, source: TaskSource, split: Split) -> None:
        self._source = source
        self._split = split

    def __iter__(self) -> Iterator[Task]:
        """Yield every held-out task once; tasks with the same prompt count as one."""
        seen: set[str] = set()
        for index in range(len(self._source)):
            task = self._source.task(index)
            if self._split.holds_out(task.prompt) and task.prompt not in seen:
                seen.add(task.prompt)
                yield task

    def first(self, count: int) -> list[Task]:
        """Return up to `count` distinct held-out tasks; fewer when the source has fewer."""
        return [task for _, task in zip(range(count), self, strict=False)]


def _training_indices(source: TaskSource, split: Split) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    kept = [index for index in range(len(source)) if not split.holds_out(source.task(index).prompt)]
    if not kept:
        raise ConfigError(
            f"tasks.held_out_fraction is {split.held_out_fraction}; it holds out all {len(source)} tasks "
            f"of {source.name!r}; lower it, or add tasks"
        )
    return np.array(kept, np.int64)
