"""What is admitted next: groups reopened after a restart, in their order, and then the task stream."""

from __future__ import annotations

from buffers.task_queue import TaskQueue
from buffers.trajectory import Task


class Counted:
    """A task stream of numbers."""

    name = "numbers"

    def __init__(self) -> None:
        self.cursor = 7

    def next_group(self) -> tuple[int, int, Task]:
        self.cursor += 1
        return group(self.cursor - 1)


def group(ordinal: int) -> tuple[int, int, Task]:
    return 0, ordinal, Task(source="numbers", index=ordinal, prompt="", answer="")


def test_reopened_groups_come_first_each_once_and_with_new_attempts():
    queue = TaskQueue(Counted())
    queue.reopen(3, group(3), {0: 0, 2: 4})
    queue.reopen(5, group(5), {})
    taken = [queue.take() for _ in range(4)]
    assert [(ordinal, task.index) for ordinal, (_, _, task), _ in taken] == [(3, 3), (5, 5), (7, 7), (8, 8)]
    assert [dict(attempts) for *_, attempts in taken] == [{0: 1, 2: 5}, {}, {}, {}]
    assert queue.issued == 9
