"""Stand-ins with a known cost, for measuring what happens around them: an engine and a loss that take time.

The engine advances all its slots by one token per tick, however many are busy, as real engines about do;
the length of a completion is lognormal, drawn from its request's key. Nothing is computed.
"""

from __future__ import annotations

import asyncio
import math
import os
import random
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from torch import Tensor

from actors.engines.base import Completion, EngineStats, Request, ScoredSequence
from learners.losses.base import Denominators, LossInputs, Metrics

__all__ = ["IdleLoss", "LognormalEngine", "engine", "lognormal_length"]

TICK_S = float(os.environ.get("BENCH_TICK_S", "0.004"))
MEAN_TOKENS = float(os.environ.get("BENCH_MEAN_TOKENS", "40"))
SIGMA = 1.0
"""Of the logarithm of the length: one sample in a hundred is six times as long as the mean."""


def lognormal_length(key: int, limit: int) -> int:
    """Return the tokens of a completion; always the same for a key."""
    mu = math.log(MEAN_TOKENS) - SIGMA**2 / 2
    return max(1, min(limit, round(random.Random(key).lognormvariate(mu, SIGMA))))


@dataclass(slots=True)
class Running:
    request: Request
    length: int
    versions: list[int]


class LognormalEngine:
    """Implements `actors.engines.base.Engine`."""

    def __init__(self, slots: int, context_length: int) -> None:
        self.version, self.slots, self.context_length = 0, slots, context_length
        self.stats = EngineStats()
        self._queue: deque[Request] = deque()
        self._running: list[Running] = []
        self._next_tick = 0.0

    @property
    def busy(self) -> bool:
        return bool(self._queue or self._running)

    @property
    def free_slots(self) -> int:
        return max(0, self.slots - len(self._queue) - len(self._running))

    def submit(self, request: Request) -> None:
        self._queue.append(request)

    async def step(self) -> list[Completion]:
        while self._queue and len(self._running) < self.slots:
            request = self._queue.popleft()
            limit = request.sampling.max_completion_length
            self._running.append(Running(request, lognormal_length(request.key, limit), []))
        now = time.perf_counter()
        # Ticks lie on a grid, so that what the caller does between them costs nothing until it is late.
        self._next_tick = max(self._next_tick + TICK_S, now) if self._next_tick > now - TICK_S else now + TICK_S
        await asyncio.sleep(max(0.0, self._next_tick - now))
        for running in self._running:
            running.versions.append(self.version)
        done = [r for r in self._running if len(r.versions) >= r.length]
        self._running = [r for r in self._running if len(r.versions) < r.length]
        self.stats.steps += 1
        self.stats.busy_s += TICK_S
        self.stats.sampled_tokens += len(self._running) + len(done)
        return [completion(r, "stop") for r in done]

    def load_weights(self, version: int, tensors: Mapping[str, Tensor]) -> None:
        self.version = version
        self.stats.weight_loads += 1

    def abort(self, ids: Sequence[str]) -> list[Completion]:
        gone = [r for r in self._running if r.request.id in ids]
        gone += [Running(r, 0, []) for r in self._queue if r.id in ids]
        self._running = [r for r in self._running if r.request.id not in ids]
        self._queue = deque(r for r in self._queue if r.id not in ids)
        return [completion(r, "abort") for r in gone]

    def score(
        self, sequences: Sequence[Sequence[int]], model: str = "current", want: Sequence[str] = (), topk: int = 0
    ) -> list[ScoredSequence]:
        raise ValueError("a simulated engine knows no log-probabilities")

    def close(self) -> None:
        self._queue.clear()
        self._running.clear()


def completion(running: Running, reason: str) -> Completion:
    tokens = len(running.versions)
    return Completion(
        id=running.request.id,
        tokens=np.full(tokens, 3, np.int32),
        logprobs=np.full(tokens, -1.0, np.float32),
        versions=np.array(running.versions, np.int64),
        finish_reason=reason,
    )


def engine(slots: int, context_length: int) -> LognormalEngine:
    """Build the engine: `engine=tests.bench.simulated:engine`."""
    return LognormalEngine(slots, context_length)


@dataclass(frozen=True, kw_only=True)
class IdleLoss:
    """Takes `seconds` per micro-batch and learns nothing."""

    seconds: float
    inputs: ClassVar[frozenset[str]] = frozenset({"current"})
    coupling: ClassVar[str] = "batch"

    def __call__(self, tensors: LossInputs, mask: Tensor, denominators: Denominators) -> tuple[Tensor, Metrics]:
        time.sleep(self.seconds if len(mask) > 1 else 0.0)
        return 0.0 * tensors.current.sum(), {}
