"""The loops that feed the buffer: one pump per rollout worker, then the reward graph.

    worker.exchange(units) -> Reply -> ADMITTED on disk -> payload on disk -> GENERATED -> reward graph -> SCORED

The buffer pulls: a payload arrives as the return value of an actor method, so it survives its worker.
X waits for Y: a pump waits for its worker (deadline, three tries under the same sequence number, then
the worker counts as lost); scoring waits for the reward graph, whose components keep their own deadlines.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, Protocol

import pyarrow as pa

from buffers.barrier import GroupBarrier
from buffers.live_groups import Verdict
from buffers.load import LoadMeter
from buffers.messages import Reply
from buffers.samples import to_samples
from buffers.scores import Sample
from buffers.stream import StreamBuffer
from buffers.transport import Handle, HandleSet
from configs.errors import DeadlineExceeded, MemberLost

__all__ = ["Intake", "PayloadLog", "ScoreLog", "Scorer"]


class Scorer(Protocol):
    """The reward graph."""

    @property
    def scopes(self) -> frozenset[str]:
        """What its components look at together: sample | group | pair."""
        ...

    @property
    def needs(self) -> frozenset[str]:
        """Optional fields of `Sample` that some component reads."""
        ...

    async def score(self, samples: Sequence[Sample], version: int) -> Sequence[Verdict]: ...


class PayloadLog(Protocol):
    """Where payloads are stored before their ledger rows."""

    def append(self, table: pa.Table) -> Future[None]: ...


class ScoreLog(Protocol):
    """Where score attempts are stored."""

    def record_scores(self, scores: Sequence[tuple[str, Any]]) -> object: ...


class Intake:
    """Pumps trajectories from workers through the reward graph into the buffer."""

    def __init__(
        self,
        buffer: StreamBuffer,
        *,
        workers: HandleSet,
        scorer: Scorer,
        payload_log: PayloadLog,
        score_log: ScoreLog,
        changed: Callable[[], None],
        max_in_flight: int,
        exchange_wait_s: float,
        call_deadline_s: float,
        exchange_tries: int = 3,
    ) -> None:
        """Wire the loops; `start` begins them.

        Args:
          max_in_flight: samples that admission lets into the stream; workers share them.
        """
        self.suspects: dict[str, str] = {}
        """Workers that stopped answering, and why, until the supervisor has detached them."""
        self.heard: dict[str, float] = {}
        """Worker -> loop time at which it brought something, or was given something while it had nothing."""
        self.failure: BaseException | None = None
        """What ended a pump or a scoring task; the run cannot go on."""
        self.worker_stats: dict[str, Mapping[str, float]] = {}
        self.pauses: list[float] = []
        self.load = LoadMeter(time.thread_time)
        """Of the buffer: messages wait for the disk, and one thread does the rest."""
        self.unscored = 0
        """Samples waiting for their rewards."""
        self._buffer, self._workers, self._scorer = buffer, workers, scorer
        self._payload_log, self._score_log, self._changed = payload_log, score_log, changed
        self._barrier = GroupBarrier(whole_groups=bool(scorer.scopes - {"sample"}), incomplete=buffer.incomplete_groups)
        self._max_in_flight = max_in_flight
        self._wait_s, self._deadline_s, self._tries = exchange_wait_s, call_deadline_s, exchange_tries
        self._pumps: dict[str, asyncio.Task[None]] = {}
        self._started = False
        self._admitting = asyncio.Event()
        self._in_order = asyncio.Lock()
        """Payloads are stored as they were accepted, so that what a lane did can be read in the order of doing it."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._storing: set[asyncio.Task[None]] = set()
        """Of these tasks: whose payload may be on disk before its row in the ledger."""
        workers.on_change(self._follow)

    def start(self) -> None:
        """Begin to pump the workers that are there, and to expire late groups.

        Not before: of workers that join one after the other, the first would get the lanes of all, and lanes that
        then move begin fresh episodes.
        """
        self._started = True
        self._follow()
        self._spawn(self._watch_deadlines())

    async def close(self) -> None:
        """Stop all loops; a payload that is being stored gets its ledger row first, or nothing would name it."""
        await self._cancel(set(self._pumps.values()))
        if self._storing:
            await asyncio.wait(self._storing, timeout=self._deadline_s)
        await self._cancel(self._tasks)

    async def _cancel(self, tasks: Collection[asyncio.Task[None]]) -> None:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _follow(self) -> None:
        self._buffer.workers([worker.name for worker in self._workers])
        for worker in self._workers:
            if self._started and worker.name not in self._pumps:
                self._pumps[worker.name] = self._spawn(self._pump(worker))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self.failure = task.exception()
            self._changed()

    async def _pump(self, worker: Handle) -> None:
        """Exchange units for trajectories until the worker leaves its pool."""
        capacity = sequence = in_flight = 0
        while worker.name in self._workers:
            is_leaving = self._workers.is_leaving(worker.name)
            if is_leaving and not in_flight and sequence:
                return
            units = [] if is_leaving else self._buffer.lease(worker.name, capacity)
            if not in_flight:
                self.heard[worker.name] = asyncio.get_running_loop().time()
            if sequence and not units and not in_flight:
                # An exchange would hold up, until its wait ends, the units that the next commit admits.
                await self._admission()
                continue
            try:
                reply = await self._exchange(worker, sequence, units)
            except (MemberLost, DeadlineExceeded) as error:
                self._give_up(worker, error)
                return
            sequence += 1
            in_flight = reply.in_flight
            capacity = max(0, min(reply.capacity, self._share - in_flight))
            self._take(worker, reply)

    def admit(self) -> None:
        """Slots may be leased again: a batch was trained, or some were given up."""
        self._admitting.set()

    async def _admission(self) -> None:
        """Wait for `admit`, at most as long as an exchange."""
        self._admitting.clear()
        try:
            async with asyncio.timeout(self._wait_s):
                await self._admitting.wait()
        except TimeoutError:
            return  # what else may open admission is looked at again

    @property
    def _share(self) -> int:
        """Most samples that one worker may hold: where few may be in flight, no worker takes them all.

        Twice the equal part, so that the others can do the work of one that hangs.
        """
        return math.ceil(2 * self._max_in_flight / max(1, len(self._workers)))

    async def _exchange(self, worker: Handle, sequence: int, units: Sequence[Any]) -> Reply:
        """Call the worker; a lost answer is asked for again under the same sequence number."""
        for attempt in range(1, self._tries + 1):
            try:
                reply: Reply = await worker.call(
                    "exchange",
                    sequence,
                    list(units),
                    self._wait_s,
                    deadline_s=self._deadline_s,
                    awaiting=f"exchange {sequence} ({len(units)} new units)",
                )
                return reply
            except DeadlineExceeded:
                if attempt == self._tries:
                    raise
        raise AssertionError("unreachable: exchange_tries is at least 1")

    async def dismiss(self, name: str, deadline_s: float) -> None:
        """Give a worker nothing more; return once everything that it held is here, or it is gone.

        Raises:
          DeadlineExceeded: it still holds something.
        """
        self._workers.leave(name)
        self.admit()
        if (pump := self._pumps.get(name)) is not None:
            await asyncio.wait({pump}, timeout=deadline_s)
            if not pump.done():
                raise DeadlineExceeded(f"{name} did not bring all that it held within {deadline_s:g} s")

    def forget(self, name: str, fault: str = "") -> None:
        """A worker left its pool: dispatch its slots again. Safe to repeat.

        Args:
          fault: how it died; empty for a farewell.
        """
        self.suspects.pop(name, None)
        pump = self._pumps.pop(name, None)
        if pump is not None and pump is not asyncio.current_task():
            pump.cancel()
        self.worker_stats.pop(name, None)
        self.heard.pop(name, None)
        if self._buffer.lose(name, fault):
            self._slots_ended()

    def take_back(self, name: str, fault: str) -> None:
        """A worker keeps what it holds: others get it, and, where it is at fault, it gets nothing more."""
        if fault:
            self._workers.leave(name)
        if self._buffer.lose(name, fault):
            self._slots_ended()

    def _give_up(self, worker: Handle, error: Exception) -> None:
        self._workers.detach(worker.name)
        self.forget(worker.name, str(error))
        self.suspects[worker.name] = str(error)

    def _take(self, worker: Handle, reply: Reply) -> None:
        self.worker_stats[worker.name] = reply.stats
        self.pauses += reply.pauses
        if reply.failures or reply.table is not None:
            self.heard[worker.name] = asyncio.get_running_loop().time()
        for failure in reply.failures:
            self._buffer.fail(failure.slot, failure.attempt, failure.reason, failure.retry)
        if reply.failures:
            self._slots_ended()
        if reply.table is not None:
            kept = self._buffer.accept(reply.table)
            if kept is not None:
                task = self._spawn(self._store(kept))
                self._storing.add(task)
                task.add_done_callback(self._storing.discard)

    async def _store(self, table: pa.Table) -> None:
        self.load.came(message := object())
        samples = to_samples(table, self._scorer.needs)
        ids = [sample.id for sample in samples]
        async with self._in_order:
            for admitted in self._buffer.admissions(ids):
                await asyncio.wrap_future(admitted)
            stored = self._payload_log.append(table)
        await asyncio.wrap_future(stored)
        self.load.begun(message)
        self._buffer.generated(ids)
        self._spawn(self._score(self._barrier.add(samples)))

    async def _score(self, samples: Sequence[Sample]) -> None:
        self.unscored += len(samples)
        try:
            verdicts = await self._scorer.score(samples, self._buffer.version)
        finally:
            self.unscored -= len(samples)
        by_id = {sample.id: verdict for sample, verdict in zip(samples, verdicts, strict=True)}
        self._score_log.record_scores([(i, score) for i, v in by_id.items() for score in v.scores.values()])
        self._buffer.scored(by_id)
        self.admit()  # a filter may have dropped a group
        self._changed()

    def _slots_ended(self) -> None:
        """Slots were given up or opened again: batches may be ready, and groups whole."""
        if samples := self._barrier.release():
            self._spawn(self._score(samples))
        self.admit()
        self._changed()

    async def _watch_deadlines(self) -> None:
        while True:
            await asyncio.sleep(1.0)
            if self._buffer.expire():
                self._slots_ended()
