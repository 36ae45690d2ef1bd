"""The buffer as a service: what runs inside the buffer's actor.

It joins the state machine (`stream`), the loops that feed it (`intake`) and the files behind them
(`ledger`, payload segments), and lets the learner driver wait for batches.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from buffers.affinity import ByLane
from buffers.batch import Batch
from buffers.batch_metrics import fragment_metrics, text_metrics
from buffers.batch_scoring import BatchScorer, BatchScoring
from buffers.filters import FILTERS
from buffers.intake import Intake, Scorer
from buffers.ledger import Ledger
from buffers.machine import Machine
from buffers.messages import Ticket
from buffers.quarantine import Quarantine
from buffers.records.retention import retire
from buffers.recovery import Recovered, recover
from buffers.relief import relieve
from buffers.samplers import SAMPLERS
from buffers.schema import TRAJECTORY
from buffers.score_tally import ScoreTally
from buffers.scores import ENVIRONMENT, component_names
from buffers.segments import SegmentWriter
from buffers.staleness import age
from buffers.stream import StreamBuffer
from buffers.transport import Handle, HandleSet
from buffers.walk_back import trails_of
from configs.errors import ConfigError, DeadlineExceeded, RunError
from configs.registry import construct
from configs.schema import RunConfig

__all__ = ["BufferHost", "build"]


class Graph(Scorer, BatchScorer, Protocol):
    """The reward graph."""


class BufferHost:
    """Serves batches to the learner driver and accepts members from the supervisor."""

    def __init__(
        self,
        buffer: StreamBuffer,
        *,
        intake: Intake,
        scoring: BatchScoring,
        pools: dict[str, HandleSet],
        ledger: Ledger,
        tally: ScoreTally,
        payload_log: SegmentWriter,
        changed: asyncio.Event,
        cursor: dict[str, Any],
        measure: Callable[[Batch], dict[str, float]],
        call_deadline_s: float,
        retire: Callable[[int], object] | None = None,
    ) -> None:
        self._retire, self._tally = retire, tally
        self._buffer, self._intake, self._scoring, self._pools = buffer, intake, scoring, pools
        self._ledger, self._payload_log, self._changed = ledger, payload_log, changed
        self._cursor, self._measure, self._deadline_s = cursor, measure, call_deadline_s
        self._batches: dict[int, Batch] = {}
        self._recorded: set[int] = set()
        """Versions that have their row."""

    def start(self) -> None:
        """Begin to pump workers."""
        self._intake.start()

    # -- members (called by the supervisor) -----------------------------------------------------

    def attach(self, pool: str, handle: Handle) -> None:
        """A member of a pool is ready."""
        self._pools[pool].attach(handle)

    async def dismiss(self, pool: str, name: str, deadline_s: float) -> None:
        """A member is given nothing more; returns once it has ended what it works on.

        Raises:
          DeadlineExceeded: it has not.
        """
        if pool == "rollout":
            await self._intake.dismiss(name, deadline_s)
        else:
            await self._pools[pool].dismiss(name, deadline_s)

    def detach(self, pool: str, name: str, fault: str = "") -> None:
        """A member is gone, by a fault or by farewell: whatever it was working on is dispatched again."""
        self._pools[pool].detach(name)
        self._intake.forget(name, fault)

    def ping(self) -> dict[str, Any]:
        """Report members that stopped answering and the load; raise what ended a loop."""
        self._raise_failure()
        load = {
            "buffer": self._intake.load.report(),
            "learner": self._buffer.load.report(),
            "rollout": self._buffer.backlog.report(),
        }
        return {"suspects": dict(self._intake.suspects), "load": load}

    # -- batches (called by the learner driver) -------------------------------------------------

    async def next_batch(self, version: int, wait_s: float) -> Ticket:
        """Return the batch to be consumed at `version`; repeated calls return the same one.

        Raises:
          DeadlineExceeded: no batch within `wait_s`; the message names what is missing.
        """
        loop = asyncio.get_running_loop()
        ends = loop.time() + wait_s
        if version not in self._batches:
            if version != self._buffer.version:
                raise RunError(f"a batch for version {version} was asked for, the buffer is at {self._buffer.version}")
            while (batch := self._compose()) is None:
                if (remaining := ends - loop.time()) <= 0:
                    raise DeadlineExceeded(f"no batch within {wait_s:g} s; {self._buffer.awaiting()}")
                await self._sleep_until_change(remaining)
            self._batches[version] = batch
            self._buffer.batched(batch)
        batch = await self._scoring.scored(self._batches[version], ends - loop.time())
        if version in self._batches:  # a call that was delivered twice may find it committed
            self._batches[version] = batch
        return Ticket(
            version=version,
            samples=len(batch.rows),
            tokens=sum(row.num_sampled for row in batch.rows),
            ages=[age(version, row.oldest_version) for row in batch.rows],
            metrics=self._measure(batch),
        )

    def relieve(self, quiet_s: float) -> str:
        """No batch has come for too long: say what is awaited, and act; see `buffers.relief`."""
        return relieve(self._buffer, self._intake, self._pools, quiet_s, asyncio.get_running_loop().time())

    def batch_table(self, version: int) -> pa.Table:
        """Return the payload of the batch announced for `version`, rows in the order of identity."""
        return self._buffer.table(self._batches[version])

    async def commit(self, version: int) -> int:
        """The update consuming `version` is published; safe to repeat. Returns the new version."""
        await self._scoring.stored(version, self._deadline_s)
        batch = self._batches.pop(version, None)
        if batch is not None:
            self._buffer.commit(batch)
            self._intake.admit()
            self._changed.set()
        return self._buffer.version

    def record_version(self, fields: dict[str, Any]) -> None:
        """Write a version row: parent, hashes and how many samples made it. Safe to repeat."""
        if fields["version"] not in self._recorded:
            self._recorded.add(fields["version"])
            self._ledger.record_version(**fields)

    # -- life cycle -----------------------------------------------------------------------------

    async def flush(self) -> None:
        """Return once everything recorded so far is on disk."""
        self._write_cursor()
        await asyncio.to_thread(self._payload_log.flush, self._deadline_s)
        await asyncio.to_thread(self._ledger.flush, self._deadline_s)

    async def retire(self) -> None:
        """Let go of what `retention` does not keep; a checkpoint was written just before."""
        if self._retire is not None:
            await asyncio.to_thread(self._retire, self._buffer.version)
            pa.default_memory_pool().release_unused()  # of the ledger that was read for it

    async def drain(self, reason: str) -> None:
        """Stop the stream: drop what is not trained, close all files."""
        self._buffer.draining = True
        await self._intake.close()
        await self._scoring.close()
        self._buffer.drain(reason)
        self._write_cursor()
        await asyncio.to_thread(self._payload_log.close)
        await asyncio.to_thread(self._ledger.close)

    def stats(self) -> dict[str, Any]:
        """Return counters for the view: workers, drops, queue lengths, bytes, new pauses in seconds, and how
        scores went since the last call.
        """
        pauses, self._intake.pauses = self._intake.pauses, []
        return {
            "workers": {name: dict(stats) for name, stats in self._intake.worker_stats.items()},
            "pools": {name: len(members) for name, members in self._pools.items()},
            "dropped": dict(self._buffer.dropped),
            "leased": self._buffer.leased,
            "unscored": self._intake.unscored,
            "held_bytes": self._buffer.payloads.held_bytes,
            "pauses": pauses,
            "awaiting": self._buffer.awaiting(),
            "scores": self._tally.take(),
        }

    # -- inside ---------------------------------------------------------------------------------

    def _compose(self) -> Batch | None:
        self._raise_failure()
        return self._buffer.compose()

    async def _sleep_until_change(self, remaining: float) -> None:
        self._changed.clear()
        try:
            async with asyncio.timeout(remaining):
                await self._changed.wait()
        except TimeoutError:
            return  # the caller's own deadline decides

    def _raise_failure(self) -> None:
        if self._intake.failure is not None:
            raise RunError(f"the buffer's intake stopped: {self._intake.failure!r}") from self._intake.failure

    def _write_cursor(self) -> None:
        self._ledger.write_cursor({**self._cursor, "groups_issued": self._buffer.issued_groups})


def build(
    config: RunConfig,
    run_folder: Path,
    run_epoch: int,
    version: int,
    make_tasks: Callable[[], Any],
    make_scorer: Callable[[dict[str, HandleSet]], Graph],
    machine: Machine | None = None,
) -> BufferHost:
    """Assemble the buffer service of a run.

    Args:
      make_tasks: returns the task cursor (see `task_queue.TaskCursor`).
      make_scorer: takes one handle set per reward component and returns the reward graph.

    Raises:
      ConfigError: an unknown sampler or filter, or a sampler that cannot go on exactly where it must.
    """
    machine = machine or Machine()
    tasks = make_tasks()
    sampler = construct(SAMPLERS, config.buffer.sampler, "buffer.sampler")
    if config.mode == "sync" and version > 0 and sampler.most(config.batch.prompts_per_update):
        raise ConfigError(
            f"buffer.sampler is {config.buffer.sampler}; a resumed run forgets the trained groups that it would "
            "repeat, and mode=sync promises the same weights; resume with mode=async, or start anew with another name="
        )
    recovered: Recovered = recover(run_folder, version=version)
    disk: dict[str, Any] = {
        "segment_bytes": config.buffer.segment_bytes,
        "commit_interval_s": config.buffer.commit_interval_s,
        "fsync": config.buffer.fsync,
        "files": machine.files,
        "commits": machine.commits,
    }
    ledger = Ledger(
        run_folder / "ledger", run_epoch=run_epoch, lineage=recovered.lineage, clock=machine.wall_clock, **disk
    )
    payload_log = SegmentWriter(run_folder / "trajectories", "trajectories", TRAJECTORY, run_epoch=run_epoch, **disk)
    trails = trails_of(run_folder, recovered.trained_by_task()) if config.is_decision else None
    buffer = StreamBuffer(
        config=config.buffer,
        batch=config.batch,
        max_staleness=config.max_staleness,
        tasks=tasks,
        sampler=sampler,
        filters=[construct(FILTERS, f, f"buffer.filters[{i}]") for i, f in enumerate(config.buffer.filters)],
        ledger=ledger,
        clock=machine.clock,
        version=version,
        trained_groups=recovered.trained_groups,
        affinity=ByLane(config.environment.lanes, trails) if config.is_decision else None,
        quarantine=Quarantine(run_folder, machine.files),
    )
    recovered.replay_into(buffer, ledger, tasks)
    changed = asyncio.Event()
    components = [name for name in component_names(config) if name != ENVIRONMENT]  # that one needs no server
    pools = {name: HandleSet(name) for name in ("rollout", *(f"reward.{c}" for c in components))}
    scorer = make_scorer({c: pools[f"reward.{c}"] for c in components})
    tally = ScoreTally(ledger)
    intake = Intake(
        buffer,
        workers=pools["rollout"],
        scorer=scorer,
        payload_log=payload_log,
        score_log=tally,
        changed=changed.set,
        max_in_flight=config.batch.samples * (config.max_staleness + 1),
        exchange_wait_s=config.rollout.message_wait_s,
        call_deadline_s=config.cluster.call_deadline_s,
    )
    cursor = {
        "source": tasks.name,
        "fingerprint": tasks.fingerprint,
        "num_generations": config.batch.num_generations,
        "tasks_per_epoch": tasks.tasks_per_epoch,
        "first": 0,
    }
    texts = partial(text_metrics, max_completion_length=config.rollout.max_completion_length)
    return BufferHost(
        buffer,
        intake=intake,
        scoring=BatchScoring(scorer, payloads=buffer.payloads, log=tally),
        pools=pools,
        ledger=ledger,
        tally=tally,
        payload_log=payload_log,
        changed=changed,
        cursor=cursor,
        measure=partial(fragment_metrics, payloads=buffer.payloads) if config.is_decision else texts,
        call_deadline_s=config.cluster.call_deadline_s,
        retire=partial(retire, run_folder, config.retention, sampler.memory, ledger, payload_log),
    )
