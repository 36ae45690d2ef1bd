"""How a reward component asks the policy: log-probabilities by the rollout workers' engines, tied to a version."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from buffers.transport import Handle, HandleSet
from configs.errors import DeadlineExceeded, MemberLost

__all__ = ["Policy", "PolicyLogprobs"]


class PolicyLogprobs(NamedTuple):
    """What one version of the policy says of some sequences."""

    version: int
    logprobs: list[NDArray[np.float32]]
    """[T] nats of each sequence: of each token given those before it, at temperature 1; 0 at t = 0."""


class Policy:
    """The rollout pool, as far as rewards use it.

    A component with "policy" in its `needs` has a parameter `policy: Policy`, which its host fills in, and a
    coroutine `score`. It stamps the version on its scores, so that a group's baseline never mixes two.
    """

    def __init__(self, workers: HandleSet, deadline_s: float) -> None:
        self._workers, self._deadline_s = workers, deadline_s
        self._load: Counter[str] = Counter()

    async def logprobs(self, sequences: Sequence[Sequence[int]]) -> PolicyLogprobs:
        """Return the log-probabilities of token sequences, all by the newest version of one worker.

        Raises:
          DeadlineExceeded: no worker answered in time; a worker that dies is left for another one.
        """
        until = asyncio.get_running_loop().time() + self._deadline_s
        lost: list[Handle] = []
        while True:
            worker = await self._worker(lost, until)
            self._load[worker.name] += len(sequences)
            try:
                return PolicyLogprobs(*await self._ask(worker, sequences, until))
            except MemberLost:
                lost.append(worker)  # scoring is pure, so another worker may do it again
            finally:
                self._load[worker.name] -= len(sequences)

    async def _worker(self, lost: Sequence[Handle], until: float) -> Handle:
        """Return the live worker with the least to score, waiting for one to join."""
        while not (live := [worker for worker in self._workers if not any(worker is gone for gone in lost)]):
            await self._workers.changed(self._left(until))
        return min(live, key=lambda worker: self._load[worker.name])

    async def _ask(
        self, worker: Handle, sequences: Sequence[Sequence[int]], until: float
    ) -> tuple[int, list[NDArray[np.float32]]]:
        version, logprobs = await worker.call(
            "logprobs",
            sequences,
            deadline_s=self._left(until),
            awaiting=f"log-probabilities of {len(sequences)} sequences",
        )
        return version, logprobs

    def _left(self, until: float) -> float:
        left = until - asyncio.get_running_loop().time()
        if left <= 0:
            what = f"no rollout worker gave log-probabilities within {self._deadline_s:g} s"
            raise DeadlineExceeded(f"{what}; {len(self._workers)} are there")
        return left
