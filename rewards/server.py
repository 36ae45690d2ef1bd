"""The reward server: hosts one component and adds batching, deadlines, retries and a circuit breaker.

    score(samples) -> calls of `batch_size` -> [queue] -> slot -> breaker -> component
                        |                                                      | failed call
                        '--<-- its units alone, retries first in the queue --<-'

    X waits for               at most                       woken by
    a call, for a slot        queue_deadline_s              a call that ends; then status timeout
    a retry, for a slot       queue_deadline_s, all tries   the same; then its last failure stands
    either, for the breaker   breaker_reset_s + deadline_s  the probe; then status error, for good
                              (0 where other replicas may be asked instead)
    either, for an answer     deadline_s                    the component; then the call has failed

A call that fails (raises, times out, cannot be matched to its samples) is retried unit by unit, so
that one poisonous sample cannot take its neighbours along. What fails for good gets an invalid
score; `score` itself raises nothing and always returns one score per sample, in order. While no call
ever succeeded, all calls together wait for the breaker HOPELESS_WAITS times as long, from its opening on:
a component that cannot work shows within seconds, and an outage is sat out.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from itertools import count

from buffers.load import Report
from buffers.scores import Sample, Score, ScoreStatus
from rewards.answers import Failure
from rewards.base import Component
from rewards.batching import PAIR, SCOPES, calls, units
from rewards.breaker import CircuitBreaker
from rewards.calling import START_DEADLINE_S, Caller
from rewards.metrics import ServerCounters
from rewards.slots import Slots

__all__ = ["BREAKER_RESET_S", "RewardServer", "verdict_deadline_s"]

BACKOFF_S = 0.1
"""Pause before the first retry; doubles with each, times a random factor in [0.5, 1.5]."""
QUEUE_DEADLINE_S = 300.0
"""At least; slow components get 30 of their own deadlines."""
BREAKER_RESET_S = 5.0
"""Where nobody says otherwise."""
HOPELESS_WAITS = 2
"""Room for two probes."""


def verdict_deadline_s(deadline_s: float, breaker_reset_s: float) -> float:
    """Return the seconds within which a server has verdicts on all samples: the sum of the waits above."""
    attempt_s = breaker_reset_s + 2 * deadline_s
    return START_DEADLINE_S + 2 * (_queue_deadline_s(deadline_s) + attempt_s)


def _queue_deadline_s(deadline_s: float) -> float:
    return max(QUEUE_DEADLINE_S, 30 * deadline_s)


class RewardServer:
    """Scores samples with one component; a plain asyncio object, one per replica."""

    def __init__(
        self,
        component: Component,
        *,
        name: str,
        batch_size: int = 64,
        concurrency: int = 4,
        deadline_s: float = 10.0,
        retries: int = 2,
        breaker_failures: int = 5,
        breaker_reset_s: float = BREAKER_RESET_S,
        rng: random.Random,
        version: int = 0,
        queue_deadline_s: float | None = None,
        max_hung_threads: int = 8,
    ) -> None:
        """Host `component` under `name`, its name in the reward graph.

        Args:
          batch_size: samples per call; a larger group is still one call.
          concurrency: calls at a time.
          deadline_s: for one call.
          retries: further attempts at a unit that failed alone.
          breaker_failures: failed calls in a row that open the circuit breaker.
          breaker_reset_s: seconds until an open breaker lets a probe through.
          rng: jitter of the back-off.
          version: of a component that does not learn, stamped on its scores.
          queue_deadline_s: for a call's wait for a slot; None takes at least QUEUE_DEADLINE_S.
          max_hung_threads: beyond this, `healthy` is False.

        Raises:
          ValueError: the component's scope is unknown.
        """
        if component.scope not in SCOPES:
            raise ValueError(f"component {name!r} has scope {component.scope!r}; it must be one of {', '.join(SCOPES)}")
        self._scope = component.scope
        self._name = name
        self._batch_size = batch_size
        self._concurrency = concurrency
        self._retries = retries
        self._breaker_wait_s = breaker_reset_s + deadline_s
        self._rng = rng
        self._queue_deadline_s = queue_deadline_s or _queue_deadline_s(deadline_s)
        self._max_hung_threads = max_hung_threads
        self._caller = Caller(component, name=name, version=version, deadline_s=deadline_s)
        self._slots = Slots(concurrency)
        self._breaker = CircuitBreaker(breaker_failures, breaker_reset_s)
        self._last_failure = ""
        self._counters = ServerCounters()
        self._warming: asyncio.Task[None] | None = None
        self._started_s = 0.0

    async def start(self) -> None:
        """Let the component warm up, once; `score` does this too."""
        if self._warming is None:
            self._started_s = asyncio.get_running_loop().time()
            self._warming = asyncio.create_task(self._caller.warm(self._concurrency))
        await asyncio.shield(self._warming)  # whoever gives up must not stop the others' warm-up

    async def score(self, samples: Sequence[Sample], patient: bool = True) -> list[Score | None]:
        """Return one score per sample, in order; invalid, never missing, where the component failed.

        Args:
          patient: wait for an open breaker. Otherwise None stands for what this replica is not to be asked now:
            another one may.
        """
        await self.start()
        together = units(samples, self._scope)
        order = [position for unit in together for position in unit]  # a sample may be in two pairs
        asked, places = [samples[position] for position in order], count()
        placed = [[next(places) for _ in unit] for unit in together]
        scores: dict[int, Score] = {}
        async with asyncio.TaskGroup() as group:
            for call in calls(placed, PAIR if self._scope == "pair" else self._batch_size):
                group.create_task(self._settle(asked, call, patient, scores))
        self._counters.verdicts(scores.values())
        own = {position: scores.get(place) for place, position in reversed(list(enumerate(order)))}
        return [own[position] for position in range(len(samples))]

    def stats(self) -> dict[str, float | str]:
        """Return counters since the start, the component's own among them.

        Differences of `busy_s` and `uptime_s` make windows.
        """
        uptime_s = asyncio.get_running_loop().time() - self._started_s if self._warming else 0.0
        busy_s = self._slots.busy_s()
        return {
            **self._caller.own_stats(),
            **self._counters.snapshot(),
            "queue": self._slots.waiting,
            "busy_s": busy_s,
            "uptime_s": uptime_s,
            "busy_share": busy_s / (uptime_s * self._concurrency) if uptime_s else 0.0,
            "breaker": self._breaker.state.value,
            "abandoned": self._caller.threads.abandoned,
            "hung_threads": self._caller.threads.hung,
        }

    def load(self) -> dict[str, Report]:
        """Return the load of this replica under the name of its pool."""
        return {f"reward.{self._name}": self._slots.load.report()}

    def healthy(self) -> bool:
        """Return False when so many threads hang that only a new process helps."""
        return self._caller.threads.hung <= self._max_hung_threads

    def close(self) -> None:
        """End the idle worker threads."""
        self._caller.threads.close()

    async def end(self) -> None:
        """Close, and let the component go what it holds."""
        await self._caller.close()

    async def _settle(
        self, samples: Sequence[Sample], together: list[list[int]], patient: bool, scores: dict[int, Score]
    ) -> None:
        """Fill in the scores of one call's units: all at once, and where that fails, each by itself."""
        positions = [position for unit in together for position in unit]
        try:
            async with self._slots.hold(self._queue_deadline_s):
                answer = await self._attempt([samples[p] for p in positions], 0, patient)
        except TimeoutError:
            what = f"no slot of {self._name!r} within {self._queue_deadline_s:g} s; raise replicas or concurrency"
            self._fail(positions, Failure(ScoreStatus.TIMEOUT, what), 0, scores)
            return
        if answer is None:
            return
        if not isinstance(answer, Failure):
            scores.update(zip(positions, answer, strict=True))
            return
        self._fail(positions, answer, 0, scores)
        if answer.final:
            return
        until = asyncio.get_running_loop().time() + self._queue_deadline_s
        async with asyncio.TaskGroup() as group:
            for unit in together:
                # To find out which unit is to blame is no retry yet.
                attempts = self._retries + (len(together) > 1)
                work = self._retry([samples[p] for p in unit], unit, attempts, until, patient, scores)
                group.create_task(work)

    async def _retry(
        self,
        call: Sequence[Sample],
        unit: list[int],
        attempts: int,
        until: float,
        patient: bool,
        scores: dict[int, Score],
    ) -> None:
        """Replace the failure of one unit by its scores, by a later failure, or by nothing where others may do it."""
        loop = asyncio.get_running_loop()
        for attempt in range(1, attempts + 1):
            pause_s = BACKOFF_S * 2 ** (attempt - 1) * self._rng.uniform(0.5, 1.5)
            if loop.time() + pause_s >= until:
                return  # the last failure stands
            await asyncio.sleep(pause_s)
            try:
                async with self._slots.hold(until - loop.time(), urgent=True):
                    answer = await self._attempt(call, attempt, patient)
            except TimeoutError:
                return  # the last failure stands
            if answer is None:
                for position in unit:
                    del scores[position]
                return
            if not isinstance(answer, Failure):
                scores.update(zip(unit, answer, strict=True))
                return
            self._fail(unit, answer, attempt, scores)
            if answer.final:
                return

    async def _attempt(self, call: Sequence[Sample], attempt: int, patient: bool) -> list[Score] | Failure | None:
        """Call the component once, through the breaker; the caller of this holds a slot. None: it was not asked."""
        loop = asyncio.get_running_loop()
        until, hopeless_since = loop.time() + self._breaker_wait_s * patient, self._breaker.hopeless_since
        if hopeless_since is not None:
            until = min(until, hopeless_since + HOPELESS_WAITS * self._breaker_wait_s)
        if not await self._breaker.admit(until):
            if not patient:
                return None
            what = f"breaker open: {self._name!r} kept failing, and no probe succeeded; last {self._last_failure}"
            return Failure(ScoreStatus.ERROR, what, final=True)
        started = loop.time()
        try:
            answer = await self._caller.call(call, attempt)
        except asyncio.CancelledError:
            self._breaker.forget()
            raise
        succeeded = not isinstance(answer, Failure)
        if isinstance(answer, Failure):
            self._last_failure = answer.detail
        self._breaker.record(succeeded)
        self._counters.call(succeeded, loop.time() - started)
        return answer

    def _fail(self, positions: Sequence[int], failure: Failure, attempt: int, scores: dict[int, Score]) -> None:
        score = self._caller.stamp(attempt, 0.0).invalid(failure)
        scores.update(dict.fromkeys(positions, score))
