"""Rollout workers that wait and compute nothing: what is left of a stream is its control plane.

The worker is the real one; its programs are coroutines that sleep. There is no learner: weights have the version
that each unit asks for.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from actors.engines.base import EngineStats
from actors.worker import RolloutWorker
from buffers.messages import Failure
from buffers.schema import to_table
from buffers.trajectory import Kind, Span, Trajectory, Unit

__all__ = ["Sleepers", "worker"]

PROMPT_TOKENS, TOKENS = 5, 12
IDLE_S = 0.05


@dataclass
class Newest:
    """An engine, and its receiver, that has any version already."""

    version: int = 1 << 40
    stats: EngineStats = field(default_factory=EngineStats)
    taken: bool = False

    def poll(self) -> int | None:
        return None if self.taken else self.version

    def take(self) -> tuple[int, dict[str, Any]]:
        self.taken = True
        return self.version, {}

    def load_weights(self, version: int, tensors: Any) -> None: ...

    def close(self) -> None: ...


class Sleepers:
    """`width` coroutines; each takes `latency_s` for a unit."""

    def __init__(self, engine: Newest, width: int, latency_s: float, message: int) -> None:
        self.engine, self.finished = engine, list[Trajectory]()
        self._width, self._latency_s, self._message = width, latency_s, message
        self._units: asyncio.Queue[Unit] = asyncio.Queue()
        self._held = 0
        self._ended = asyncio.Event()
        self._coroutines: list[asyncio.Task[None]] = []

    @property
    def in_flight(self) -> int:
        return self._held

    @property
    def wanted(self) -> int:
        return self._width + 2 * self._message

    def start(self, unit: Unit) -> None:
        if not self._coroutines:
            self._coroutines = [asyncio.create_task(self._roll_out()) for _ in range(self._width)]
        self._held += 1
        self._units.put_nowait(unit)

    async def step(self) -> None:
        self._ended.clear()
        try:
            async with asyncio.timeout(IDLE_S):
                await self._ended.wait()
        except TimeoutError:
            return

    def take(self) -> tuple[list[Trajectory], list[Failure]]:
        ended, self.finished = self.finished, []
        return ended, []

    def to_table(self, trajectories: Sequence[Trajectory]) -> pa.Table:
        return to_table(trajectories)

    async def close(self) -> None:
        for coroutine in self._coroutines:
            coroutine.cancel()

    async def _roll_out(self) -> None:
        while True:
            unit = await self._units.get()
            started = time.time()
            await asyncio.sleep(self._latency_s)
            self.finished.append(_trajectory(unit, started))
            self._held -= 1
            self._ended.set()


KINDS = np.repeat(np.array([Kind.PROMPT, Kind.SAMPLED], np.uint8), [PROMPT_TOKENS, TOKENS - PROMPT_TOKENS])


def _trajectory(unit: Unit, started: float) -> Trajectory:
    return Trajectory(
        slot=unit.slot, attempt=unit.attempt, tokens=np.arange(TOKENS, dtype=np.int32), kinds=KINDS,
        logprobs=np.full(TOKENS, -1.0, np.float32), versions=[(unit.min_version, TOKENS - PROMPT_TOKENS)],
        prompt=unit.task.prompt, completion="2", answer=unit.task.answer, spans=[Span("turn", PROMPT_TOKENS, TOKENS)],
        started_at=started, finished_at=time.time(),
    )  # fmt: skip


def worker(width: int, latency_s: float, message: int) -> RolloutWorker:
    """Build an actor with so many simulated workers."""
    engine = Newest()
    return RolloutWorker(Sleepers(engine, width, latency_s, message), engine, message_samples=message)
