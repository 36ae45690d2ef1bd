"""Running rollout programs on one engine: many coroutines, one decode loop.

start(unit) -> the program runs as a task and submits requests to the engine
await step() -> one engine step; tasks whose request finished go on
finished / failures -> what ended since they were last taken
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import xxhash
from numpy.typing import NDArray

from actors.engines import ENGINES
from actors.engines.base import Completion, Engine, Request
from actors.programs import PROGRAMS
from actors.programs.policy import Rollout
from buffers.identity import Slot, attempt_id
from buffers.messages import Failure
from buffers.schema import to_table
from buffers.trajectory import Sampling, Trajectory, Unit
from configs.errors import RunError
from configs.registry import construct
from configs.schema import RunConfig
from learners.models.tokenizer import load_tokenizer

__all__ = ["EnginePolicy", "Rollouts", "build_rollouts", "request_key"]


def request_key(seed: int, slot: Slot, branch: int, call: int) -> int:
    """Return the key of a request's random numbers; an attempt of the same slot repeats them."""
    return int(xxhash.xxh3_64_intdigest(f"{seed}/{slot}/{branch}/{call}".encode()))


class EnginePolicy:
    """The policy as a program sees it: `actors.programs.policy.Policy` on an engine."""

    def __init__(
        self, rollouts: Rollouts, slot: Slot, attempt: int, sampling: Sampling, branch: int = 0, calls: int = 0
    ) -> None:
        self.slot, self.attempt, self.sampling = slot, attempt, sampling
        self.tokenizer = rollouts.tokenizer
        self.context_length = rollouts.engine.context_length
        self._rollouts, self._branch, self._calls = rollouts, branch, calls

    async def generate(self, tokens: Sequence[int], *, sampling: Sampling | None = None) -> Completion:
        """Continue `tokens`; the n-th call of a branch always draws the same random numbers."""
        request = Request(
            id=f"{attempt_id(self.slot, self.attempt)}/{self._branch}/{self._calls}",
            tokens=tuple(tokens),
            sampling=sampling or self.sampling,
            key=request_key(self._rollouts.seed, self.slot, self._branch, self._calls),
        )
        self._calls += 1
        return await self._rollouts.generate(request)

    async def logprobs(self, sequences: Sequence[Sequence[int]], model: str = "current") -> list[NDArray[np.float32]]:
        """Return [T] nats per sequence, with the weights that `model` names."""
        return [scored.logprobs for scored in self._rollouts.engine.score(sequences, model)]

    def fork(self, branch: int) -> EnginePolicy:
        """Return a policy that draws other random numbers from here on."""
        return EnginePolicy(self._rollouts, self.slot, self.attempt, self.sampling, branch, self._calls)


class Rollouts:
    """Owns the engine and the programs that run on it."""

    def __init__(
        self,
        engine: Engine,
        program: Rollout,
        tokenizer: Any,
        *,
        sampling: Sampling,
        seed: int,
        max_delay_s: float = 0.0,
        delays: random.Random | None = None,
        message_samples: int = 0,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.engine, self.tokenizer, self.seed = engine, tokenizer, seed
        self.finished: list[Trajectory] = []
        self.failures: list[Failure] = []
        self._program, self._sampling, self._wall_clock = program, sampling, wall_clock
        self._max_delay_s, self._delays = max_delay_s, delays or random.Random()
        self._message_samples = message_samples
        self._waiting: dict[str, asyncio.Future[Completion]] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    @property
    def in_flight(self) -> int:
        return len(self._tasks)

    @property
    def wanted(self) -> int:
        """Units to hold; beyond the slots, what two messages bring: a freed slot finds a prompt waiting."""
        return self.engine.slots + 2 * self._message_samples

    def to_table(self, trajectories: Sequence[Trajectory]) -> pa.Table:
        """Return finished trajectories as rows."""
        return to_table(trajectories)

    def start(self, unit: Unit) -> None:
        """Begin a rollout; the program has run up to its first request when this task is scheduled."""
        task = asyncio.get_running_loop().create_task(self._run(unit))
        self._tasks[attempt_id(unit.slot, unit.attempt)] = task

    async def generate(self, request: Request) -> Completion:
        """Submit a request and wait for its completion; the worker's loop steps the engine."""
        future: asyncio.Future[Completion] = asyncio.get_running_loop().create_future()
        self._waiting[request.id] = future
        self.engine.submit(request)
        return await future

    async def step(self) -> None:
        """Advance the engine by one step, or yield to programs that have not submitted yet."""
        if not self.engine.busy:
            await asyncio.sleep(0)
            return
        for completion in await self.engine.step():
            self._waiting.pop(completion.id).set_result(completion)

    def take(self) -> tuple[list[Trajectory], list[Failure]]:
        """Return and forget what ended."""
        ended = self.finished, self.failures
        self.finished, self.failures = [], []
        return ended

    async def close(self) -> None:
        """Cancel what runs and release the engine."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self.engine.close()

    async def _run(self, unit: Unit) -> None:
        """Top of one rollout: whatever a program raises becomes a failure with its reason."""
        started = self._wall_clock()
        name = attempt_id(unit.slot, unit.attempt)
        policy = EnginePolicy(self, unit.slot, unit.attempt, self._sampling)
        try:
            if self._max_delay_s:
                await asyncio.sleep(self._delays.random() * self._max_delay_s)
            rng = random.Random(request_key(self.seed, unit.slot, -1, 0))
            trajectories = await self._program.rollout(unit.task, policy, rng)
            for node, trajectory in enumerate(trajectories):
                trajectory.node, trajectory.started_at, trajectory.finished_at = node, started, self._wall_clock()
            self.finished += trajectories
        except RunError as error:
            self._fail(unit, str(error), retry=False)
        except Exception as error:
            self._fail(unit, f"{type(error).__name__}: {error}", retry=True)
        finally:
            del self._tasks[name]

    def _fail(self, unit: Unit, reason: str, retry: bool) -> None:
        self.failures.append(Failure(slot=unit.slot, attempt=unit.attempt, reason=reason, retry=retry))


def build_rollouts(config: RunConfig, model_folder: Path, *, temperature: float) -> Rollouts:
    """Build engine and program of a run; evaluation brings its own temperature."""
    tokenizer = load_tokenizer(model_folder, trust_remote_code=config.model.trust_remote_code)
    rollout = config.rollout
    engine = construct(
        ENGINES,
        {**config.engines.get(config.engine, {}), "target": config.engine},
        f"engines.{config.engine}",
        folder=model_folder,
        model=config.model,
        tokenizer=tokenizer,
        slots=rollout.slots,
        context_length=rollout.context_length,
        prefill_chunk=rollout.prefill_chunk,
        seed=config.seed,
        log_folder=Path(config.runs_folder) / config.name / "logs",
    )
    sampling = Sampling(
        temperature=temperature,
        top_p=rollout.top_p,
        top_k=rollout.top_k,
        max_completion_length=rollout.max_completion_length,
        stop=tuple(rollout.stop),
    )
    program = construct(PROGRAMS, rollout.program, "rollout.program")
    return Rollouts(
        engine, program, tokenizer, sampling=sampling, seed=config.seed, max_delay_s=rollout.max_delay_s,
        message_samples=rollout.message_samples,
    )  # fmt: skip
