"""When a rollout worker answers an exchange."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from actors.engines.base import EngineStats
from actors.worker import RolloutWorker
from buffers.identity import Slot
from buffers.messages import Failure, Reply
from buffers.trajectory import Task, Unit

NEVER_S = 3600.0
DEADLINE_S = 20.0


class Engine:
    """Weights without a network."""

    def __init__(self) -> None:
        self.version, self.stats = -1, EngineStats()

    def load_weights(self, version: int, tensors: Any) -> None:
        self.version = version


class Steps:
    """Each unit takes as many steps as its sample's number says."""

    def __init__(self) -> None:
        self.engine, self.finished = Engine(), list[int]()
        self._left: dict[int, int] = {}

    @property
    def in_flight(self) -> int:
        return len(self._left)

    @property
    def wanted(self) -> int:
        return 8

    def start(self, unit: Unit) -> None:
        self._left[unit.slot.sample] = unit.slot.sample

    async def step(self) -> None:
        for sample in list(self._left):
            self._left[sample] -= 1
            if not self._left[sample]:
                del self._left[sample]
                self.finished.append(sample)
        await asyncio.sleep(0)

    def take(self) -> tuple[list[int], list[Failure]]:
        ended, self.finished = self.finished, []
        return ended, []

    def to_table(self, trajectories: Sequence[int]) -> pa.Table:
        return pa.table({"sample": list(trajectories)})

    async def close(self) -> None:
        self._left.clear()


class Once:
    """A receiver that has one version and then none."""

    def __init__(self) -> None:
        self._new: int | None = 0

    def poll(self) -> int | None:
        return self._new

    def take(self) -> tuple[int, dict[str, Any]]:
        self._new = None
        return 0, {}

    def close(self) -> None:
        self._new = None


def unit(steps: int, min_version: int = 0) -> Unit:
    task = Task(source="steps", index=0, prompt="", answer="")
    return Unit(slot=Slot("steps", 0, 0, steps), attempt=0, task=task, min_version=min_version)


def exchange(units: Sequence[Unit], message_samples: int) -> Reply:
    async def once() -> Reply:
        worker = RolloutWorker(Steps(), Once(), message_samples=message_samples, idle_s=0)
        try:
            return await asyncio.wait_for(worker.exchange(0, units, NEVER_S), DEADLINE_S)
        finally:
            await worker.close()

    return asyncio.run(once())


def test_a_full_message_is_handed_over_while_others_go_on() -> None:
    reply = exchange([unit(1), unit(2), unit(10**9)], message_samples=2)
    assert reply.table["sample"].to_pylist() == [1, 2]
    assert reply.in_flight == 1


def test_what_finished_is_handed_over_as_soon_as_nothing_is_under_way() -> None:
    reply = exchange([unit(1), unit(3)], message_samples=64)
    assert reply.table["sample"].to_pylist() == [1, 3]
    assert reply.in_flight == 0


def test_units_that_wait_for_newer_weights_do_not_hold_up_what_finished() -> None:
    reply = exchange([unit(2), unit(1, min_version=5)], message_samples=64)
    assert reply.table["sample"].to_pylist() == [2]
    assert (reply.in_flight, reply.capacity) == (1, 7)
