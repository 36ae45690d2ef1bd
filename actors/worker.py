"""The rollout worker: keeps its engine full and never waits for the learner.

One loop steps the engine, swaps in new weights between two steps, and starts units as soon as their
weights version is there. The buffer calls `exchange`: new units in, finished trajectories out.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from actors.inbox import WeightsInbox
from actors.rollouts import build_rollouts
from actors.step_watch import StepWatch
from buffers.load import LoadMeter
from buffers.messages import Failure, Reply
from buffers.trajectory import Unit
from configs.errors import RunError
from configs.schema import RunConfig
from learners.models.weights import Receiver

__all__ = ["RolloutWorker", "build"]

IDLE_S = 0.002
"""Pause of the loop while there is nothing to decode; bounds the latency of a new unit."""


class Generating(Protocol):
    """What produces trajectories: programs on an engine (`rollouts`), or lanes of environments (`lane_rollouts`)."""

    engine: Any
    """With `version`, `stats` and `load_weights(version, tensors)`."""
    finished: list[Any]

    @property
    def in_flight(self) -> int:
        """Units begun and not finished."""
        ...

    @property
    def wanted(self) -> int:
        """Units to hold, so that none of what computes runs dry during an exchange."""
        ...

    def start(self, unit: Unit) -> None:
        """Begin a unit."""
        ...

    async def step(self) -> None:
        """Go on by one step."""
        ...

    def take(self) -> tuple[list[Any], list[Failure]]:
        """Return and forget what ended."""
        ...

    def to_table(self, trajectories: Sequence[Any]) -> pa.Table:
        """Return some of what ended as rows."""
        ...

    async def close(self) -> None:
        """Release everything."""
        ...


class RolloutWorker:
    """Serves exchanges while its engine runs."""

    def __init__(
        self,
        rollouts: Generating,
        receiver: Receiver,
        *,
        message_samples: int,
        idle_s: float = IDLE_S,
        watch: StepWatch | None = None,
    ) -> None:
        self._rollouts, self._watch = rollouts, watch
        self._inbox = WeightsInbox(rollouts.engine, receiver)
        self._message_samples, self._idle_s = message_samples, idle_s
        self._queue: deque[Unit] = deque()
        self._load = LoadMeter(lambda: rollouts.engine.stats.busy_s)
        """Of units that wait for their weights."""
        self._pauses: list[float] = []
        self._has_weights = False
        """Published ones: an engine begins with those of the model folder, which may be older than version 0."""
        self._sequence = -1
        self._answer: asyncio.Task[Reply] | None = None
        """To exchange `_sequence`."""
        self._progress = asyncio.Event()
        self._loop: asyncio.Task[None] | None = None
        self._started_s = 0.0

    def ping(self) -> dict[str, Any]:
        """Answer the supervisor, maybe in another thread; raises what ended the loop, or what it hangs in."""
        self._raise_failure()
        if self._watch is not None:
            self._watch.check()
        return {
            "version": self._rollouts.engine.version,
            "in_flight": self._rollouts.in_flight,
            "load": {"rollout": self._load.report()},
        }

    async def exchange(self, sequence: int, units: Sequence[Unit], wait_s: float) -> Reply:
        """Take units, return what finished: after `wait_s`, or as soon as a message is full or nothing is under way.

        A repeated `sequence` gets the same answer, so that a lost or late reply loses nothing.

        Raises:
          RunError: a later exchange has begun, so nobody waits for this one.
        """
        if sequence < self._sequence:
            raise RunError(f"exchange {sequence} came after exchange {self._sequence}; it is a late duplicate")
        if sequence > self._sequence or self._answer is None:
            self._sequence = sequence
            self._answer = asyncio.get_running_loop().create_task(self._exchange(units, wait_s))
        return await asyncio.shield(self._answer)

    async def _exchange(self, units: Sequence[Unit], wait_s: float) -> Reply:
        if self._loop is None:
            loop = asyncio.get_running_loop()
            self._started_s, self._loop = loop.time(), loop.create_task(self._run())
        self._queue.extend(units)
        for unit in units:
            self._load.came((unit.slot, unit.attempt))
        await self._wait_for_message(wait_s)
        self._raise_failure()
        return self._reply()

    def logprobs(self, sequences: Sequence[Sequence[int]]) -> tuple[int, list[NDArray[np.float32]]]:
        """Return (version, [T] nats of each sequence) by the present weights, for rewards that ask the policy.

        Raises:
          RunError: no published weights have arrived yet.
        """
        if not self._has_weights:
            raise RunError("this worker has no published weights to score with yet; ask again")
        scored = self._rollouts.engine.score(sequences)
        return self._rollouts.engine.version, [sequence.logprobs for sequence in scored]

    def receive(self, packet: Any) -> None:
        """Take pushed weights; see `WeightsInbox.offer`."""
        self._inbox.offer(packet)

    async def close(self) -> None:
        """Stop the loop and release the engine."""
        if self._loop is not None:
            self._loop.cancel()
            await asyncio.gather(self._loop, return_exceptions=True)
        await self._rollouts.close()
        self._inbox.close()

    # -- the loop -------------------------------------------------------------------------------

    async def _run(self) -> None:
        while True:
            self._swap_weights()
            self._start_units()
            if self._rollouts.in_flight:
                await self._rollouts.step()
            else:
                await asyncio.sleep(self._idle_s)
            if len(self._rollouts.finished) >= self._message_samples or self._ran_dry():
                self._progress.set()

    def _ran_dry(self) -> bool:
        """Whether more can only finish after an exchange, or after new weights."""
        return bool(self._rollouts.finished) and not self._rollouts.in_flight

    def _swap_weights(self) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        if self._inbox.swap():
            self._has_weights = True
            self._pauses.append(loop.time() - began)

    def _start_units(self) -> None:
        while self._has_weights and self._queue and self._queue[0].min_version <= self._rollouts.engine.version:
            unit = self._queue.popleft()
            self._load.begun((unit.slot, unit.attempt))
            self._rollouts.start(unit)

    async def _wait_for_message(self, wait_s: float) -> None:
        self._progress.clear()
        if len(self._rollouts.finished) < self._message_samples and not self._ran_dry():
            try:
                async with asyncio.timeout(wait_s):
                    await self._progress.wait()
            except TimeoutError:
                return

    def _reply(self) -> Reply:
        trajectories, failures = self._rollouts.take()
        engine = self._rollouts.engine
        in_flight = self._rollouts.in_flight + len(self._queue)
        pauses, self._pauses = tuple(self._pauses), []
        return Reply(
            table=self._rollouts.to_table(trajectories) if trajectories else None,
            failures=tuple(failures),
            capacity=max(0, self._rollouts.wanted - in_flight),
            in_flight=in_flight,
            stats={
                "busy_s": engine.stats.busy_s,
                "lifetime_s": asyncio.get_running_loop().time() - self._started_s,
                "sampled_tokens": float(engine.stats.sampled_tokens),
                "steps": float(engine.stats.steps),
                "longest_gap_s": engine.stats.longest_gap_s,
                "version": float(engine.version),
            },
            pauses=pauses,
        )

    def _raise_failure(self) -> None:
        if self._loop is not None and self._loop.done() and not self._loop.cancelled():
            error = self._loop.exception()
            raise RunError(f"the rollout loop stopped: {error!r}") from error


def build(
    config: RunConfig, model_folder: Path, receivers: Sequence[Callable[[], Receiver]], seat: int
) -> RolloutWorker:
    """Build the worker of a language policy, of a seat, inside its own process.

    Args:
      receivers: factories by seat; beyond their number they are all alike.
    """
    torch.set_num_threads(config.rollout.threads)
    rollouts = build_rollouts(config, model_folder, temperature=config.rollout.temperature)
    receiver = receivers[seat % len(receivers)]()
    return RolloutWorker(rollouts, receiver, message_samples=config.rollout.message_samples)
