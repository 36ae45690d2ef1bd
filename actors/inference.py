"""Shared inference: one actor computes the actions of several rollout workers, on the newest weights.

    workers: act(observations, state, noise, at_least) -> (actions, log-probabilities, state after), version

The loop answers all requests that came while it computed the answers before: the batch grows with the load.
A request waits until weights of version `at_least` are there. An answer is a function of the request and of the
weights alone, because the engine pads every batch to the same number of rows (see `policy_engine`).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from actors.environments import describe
from actors.inbox import WeightsInbox
from actors.policy_engine import Acted, PolicyEngine, build_engine
from buffers.load import LoadMeter
from configs.errors import MemberLost, RunError
from configs.schema import RunConfig
from learners.models.weights import Receiver

__all__ = ["InferenceServer", "build"]

IDLE_S = 0.002
"""Between looks at the receiver while nobody asks."""


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class _Request:
    observations: Mapping[str, NDArray[Any]]
    state: NDArray[np.float32]
    noise: NDArray[np.float32]
    at_least: int
    answer: asyncio.Future[tuple[Acted, int]]


class InferenceServer:
    """Holds the policy for workers that hold environments."""

    def __init__(self, engine: PolicyEngine, receiver: Receiver, *, idle_s: float = IDLE_S) -> None:
        self._engine, self._idle_s = engine, idle_s
        self._inbox = WeightsInbox(engine, receiver)
        self._waiting: list[_Request] = []
        self._arrived, self._swapped = asyncio.Event(), asyncio.Event()
        self._answered = 0
        self._load = LoadMeter(lambda: engine.stats.busy_s)
        self._loop: asyncio.Task[None] | None = None

    def ping(self) -> dict[str, Any]:
        """Answer the supervisor; raises what ended the loop."""
        self._raise_failure()
        engine = self._engine
        counts = {"requests": self._answered, "batches": engine.stats.steps}
        return {"version": engine.version, **counts, "load": {"inference": self._load.report()}}

    async def act(
        self,
        observations: Mapping[str, NDArray[Any]],
        state: NDArray[np.float32],
        noise: NDArray[np.float32],
        at_least: int,
    ) -> tuple[Acted, int]:
        """Return what `PolicyEngine.act` does, and the version of the weights that did it.

        Safe to repeat: it changes nothing.

        Args:
          observations, state, noise: N rows each.
          at_least: wait for weights of this version; owner of the wait: the learner, through its publisher.
        """
        self._begin()
        answer: asyncio.Future[tuple[Acted, int]] = asyncio.get_running_loop().create_future()
        self._waiting.append(
            _Request(observations=observations, state=state, noise=noise, at_least=at_least, answer=answer)
        )
        self._load.came(answer)
        self._arrived.set()
        return await answer

    async def newer(self, version: int, wait_s: float) -> int:
        """Return the version of the weights here: as soon as it is above `version`, or after `wait_s`."""
        self._begin()
        if self._engine.version <= version:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._swapped.wait()
        self._raise_failure()
        return self._engine.version

    def receive(self, packet: Any) -> None:
        """Take pushed weights; see `WeightsInbox.offer`."""
        self._inbox.offer(packet)

    async def close(self) -> None:
        """Stop the loop; those who wait learn that nothing will come."""
        if self._loop is not None:
            self._loop.cancel()
            await asyncio.gather(self._loop, return_exceptions=True)
        for request in self._waiting:
            if not request.answer.done():
                request.answer.set_exception(MemberLost("the inference actor was closed"))
        self._inbox.close()

    # -- the loop -------------------------------------------------------------------------------

    def _begin(self) -> None:
        if self._loop is None:
            self._loop = asyncio.get_running_loop().create_task(self._run())
        self._raise_failure()

    async def _run(self) -> None:
        while True:
            if self._inbox.swap():
                self._swapped.set()
                self._swapped = asyncio.Event()
            self._arrived.clear()
            due = [request for request in self._waiting if request.at_least <= self._engine.version]
            if due:
                self._waiting = [request for request in self._waiting if request.at_least > self._engine.version]
                self._answer(due)
                await asyncio.sleep(0)  # requests that came meanwhile are taken in
            else:
                await self._idle()

    async def _idle(self) -> None:
        try:
            async with asyncio.timeout(self._idle_s):
                await self._arrived.wait()
        except TimeoutError:
            return  # there may be new weights

    def _answer(self, due: Sequence[_Request]) -> None:
        observations = {name: np.concatenate([r.observations[name] for r in due]) for name in due[0].observations}
        state, noise = (np.concatenate([getattr(r, part) for r in due]) for part in ("state", "noise"))
        acted, first = self._engine.act(observations, state, noise), 0
        for request in due:
            self._load.begun(request.answer)
            rows = slice(first, first + len(request.state))
            first = rows.stop
            if not request.answer.done():  # whoever asked may have gone
                actions, logprobs, after = acted
                request.answer.set_result(((actions[rows], logprobs[rows], after[rows]), self._engine.version))
        self._answered += len(due)

    def _raise_failure(self) -> None:
        if self._loop is not None and self._loop.done() and not self._loop.cancelled():
            error = self._loop.exception()
            raise RunError(f"the inference loop stopped: {error!r}") from error


def build(config: RunConfig, receivers: Sequence[Callable[[], Receiver]], seat: int) -> InferenceServer:
    """Build the server of a seat inside its own process.

    Args:
      receivers: factories by seat; beyond their number they are all alike.
    """
    torch.set_num_threads(config.rollout.threads)
    engine = build_engine(config, describe(config.environment))
    return InferenceServer(engine, receivers[seat % len(receivers)]())
