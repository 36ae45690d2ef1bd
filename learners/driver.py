"""The learner driver: takes batches, updates, publishes, commits; and never generates.

    buffer.next_batch(v) -> every rank: update(batch) -> rank 0: publish(v + 1) -> buffer.commit(v)
                                                              \\-> sha256 and version row, off the path
    every `eval.every` updates: evaluator.evaluate(snapshot), while the stream goes on
    every `checkpoint.every`:   buffer.flush(), then rank 0 writes the checkpoint

The driver waits for: a batch (owner: the buffer; its message names the missing samples), an update
(owner: the ranks). Both waits end at a deadline. Plain asyncio over handles, so that the simulator runs it too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from buffers.messages import Ticket
from buffers.transport import Handle
from configs.errors import DeadlineExceeded, RunError
from configs.schema import RunConfig
from learners.meter import Meter
from learners.observing import Observer

__all__ = ["LearnerDriver", "Listener", "Totals"]

OBSERVE_S = 5.0
"""Longest wait for figures that only inform."""
POLL_S = 2.0
"""Longest wait for a batch before commands are looked at again."""


OBEY_S = 0.2
"""Between looks at commands: updates can be faster than anyone types."""


class Listener(Protocol):
    """Who hears of progress: the metrics files and the view."""

    def update(self, update: int, metrics: Mapping[str, float], pools: Mapping[str, int]) -> None: ...

    def evaluation(self, update: int, result: Mapping[str, float]) -> None: ...


@dataclass
class Totals:
    """Sums over the updates of this process; seconds, samples, sampled tokens."""

    updates: int = 0
    samples: int = 0
    tokens: int = 0
    spanning: float = 0.0
    ages: list[int] = field(default_factory=list)
    """Versions, one per trained sample."""
    waited_s: float = 0.0
    transfers_s: list[float] = field(default_factory=list)
    pauses_s: list[float] = field(default_factory=list)
    published_bytes: int = 0
    began: float = 0.0
    """Loop time."""

    @property
    def wall_s(self) -> float:
        return asyncio.get_running_loop().time() - self.began


class LearnerDriver:
    """Drives the learner group of one run."""

    def __init__(
        self,
        config: RunConfig,
        *,
        buffer: Handle,
        ranks: Sequence[Handle],
        evaluator: Handle | None,
        workers: Callable[[], Awaitable[Sequence[Handle]]],
        listener: Listener,
        commands: Callable[[], Awaitable[Sequence[str]]],
        observers: Callable[[], Awaitable[Sequence[Handle]]] | None = None,
    ) -> None:
        """Wire the driver.

        Args:
          observers: returns who learns intrinsic rewards; None where nobody does.
        """
        self.totals = Totals(began=asyncio.get_running_loop().time())
        self.evaluations: dict[int, Mapping[str, float]] = {}
        self.stopping = ""
        self.weights_sha256 = ""
        self._config, self._buffer, self._ranks, self._evaluator = config, buffer, ranks, evaluator
        self._workers, self._listener, self._commands = workers, listener, commands
        self._observer = observers and Observer(observers, prefix="intrinsic/", deadline_s=OBSERVE_S)
        self.intrinsic: Mapping[str, float] = {}
        """Newest figures of who learns intrinsic rewards, as metrics."""
        self._paused = False
        self._obeyed = -OBEY_S
        self._waited_s = 0.0
        self.meter = self._new_meter()
        self._jobs: set[asyncio.Task[None]] = set()
        self._evaluating: asyncio.Task[None] | None = None
        self._publication: tuple[int, Any] = (-1, None)
        """(version, reference to what was published)"""
        self._delivered: dict[str, int] = {}
        """worker -> version that it was pushed last (object store)"""
        self._delivering: asyncio.Task[None] | None = None
        self._deadline_s = config.cluster.call_deadline_s

    def stop(self, reason: str) -> None:
        """Finish the present update, then end."""
        self.stopping = self.stopping or reason

    async def run(self, version: int) -> int:
        """Train from `version` until `updates`, or until told to stop; return the last version."""
        await self._publish(version)
        await self._record_version(version, None)
        self.totals.began = asyncio.get_running_loop().time()
        self.meter = self._new_meter()
        while version < self._config.updates and not self.stopping:
            ticket = await self._next_batch(version)
            if ticket is None:
                break
            version = await self._train(ticket)
            if self._due(self._config.eval.every, version):
                await self.evaluate(version, wait=False)
            if self._due(self._config.checkpoint.every, version):
                await self.checkpoint(version)
        await self._finish_jobs()
        return version

    async def evaluate(self, version: int, *, wait: bool) -> None:
        """Start an evaluation of the present weights; the one before it must have ended."""
        if self._evaluator is None:
            return
        if self._evaluating is not None:
            await self._evaluating
        # The snapshot is taken now: the next update changes the weights in place.
        packet = await self._ranks[0].call(
            "snapshot", version, deadline_s=self._deadline_s, awaiting=f"snapshot of version {version}"
        )
        self._evaluating = asyncio.create_task(self._evaluate(version, packet))
        if wait:
            await self._evaluating

    async def checkpoint(self, version: int, *, drained: bool = False) -> None:
        """Write a checkpoint; the ledger up to it is on disk before (`drained`: it is closed already)."""
        if not drained:
            await self._finish_jobs()
            await self._buffer.call("flush", deadline_s=self._deadline_s, awaiting="ledger on disk")
        figure = self.evaluations[max(self.evaluations)][self._config.headline] if self.evaluations else None
        await self._ranks[0].call(
            "save", figure, deadline_s=self._config.learner.update_deadline_s, awaiting=f"checkpoint {version}"
        )
        if self._config.retention.is_set:
            patience_s = self._config.learner.update_deadline_s
            await self._buffer.call("retire", deadline_s=patience_s, awaiting="retirement of old files")

    # -- one update -----------------------------------------------------------------------------

    async def _train(self, ticket: Ticket) -> int:
        loop = asyncio.get_running_loop()
        began = loop.time()
        table = self._buffer.ref("batch_table", ticket.version)
        answers = await asyncio.gather(
            *(
                rank.call(
                    "update",
                    table,
                    ticket.version + 1,
                    deadline_s=self._config.learner.update_deadline_s,
                    awaiting=f"update {ticket.version} of {ticket.samples} samples",
                )
                for rank in self._ranks
            )
        )
        updated = loop.time()
        version = ticket.version + 1
        transfer_s = await self._publish(version)
        wait = {"deadline_s": self._deadline_s}
        _, stats = await asyncio.gather(
            self._buffer.call("commit", ticket.version, **wait, awaiting=f"commit of version {ticket.version}"),
            self._buffer.call("stats", **wait, awaiting="buffer statistics"),
        )
        self._spawn(self._record_version(version, ticket))
        timing = {"time/update": updated - began, "time/wait_for_batch": self._waited_s, "time/weight_sync": transfer_s}
        self._account(ticket, {**answers[0], **timing}, stats)
        return version

    async def _next_batch(self, version: int) -> Ticket | None:
        """Wait for the batch of `version`; None when told to stop meanwhile.

        Raises:
          DeadlineExceeded: nothing came for `cluster.progress_deadline_s`; the message says what is missing.
        """
        loop = asyncio.get_running_loop()
        began = loop.time()
        while True:
            await self._obey()
            if self.stopping:
                return None
            self._deliver_late()
            try:
                if not self._paused:
                    ticket: Ticket = await self._buffer.call(
                        "next_batch",
                        version,
                        POLL_S,
                        deadline_s=POLL_S + self._deadline_s,
                        awaiting=f"batch {version}",
                    )
                    self._waited_s = loop.time() - began
                    return ticket
                await asyncio.sleep(POLL_S / 4)
            except DeadlineExceeded:
                if loop.time() - began > self._config.cluster.progress_deadline_s:
                    raise

    async def _obey(self) -> None:
        now = asyncio.get_running_loop().time()
        if now < self._obeyed + OBEY_S:
            return
        self._obeyed = now
        for command in await self._commands():
            if command == "stop":
                self.stop("stopped by command")
            elif command in ("pause", "resume"):
                self._paused = command == "pause"
            else:
                raise RunError(f"unknown command {command!r}; known: stop, pause, resume")

    async def _publish(self, version: int) -> float:
        """Publish the ranks' weights as `version`; return the transfer's seconds."""
        rank, deadline_s = self._ranks[0], self._config.publish.deadline_s
        self._publication = (version, rank.ref("publish", version))
        await self._deliver()
        seconds, size = await rank.call(
            "publication", version, deadline_s=deadline_s, awaiting=f"publication of version {version}"
        )
        self.totals.transfers_s.append(seconds)
        self.totals.published_bytes += size
        return float(seconds)

    async def _deliver(self) -> None:
        """Push the newest weights to every worker that does not have them (back ends without shared memory)."""
        if self._config.publish.backend != "object_store":
            return
        version, publication = self._publication
        lacking = [w for w in await self._workers() if self._delivered.get(w.name) != version]
        pushes = [
            worker.call(
                "receive",
                publication,
                deadline_s=self._config.publish.deadline_s,
                awaiting=f"delivery of version {version}",
            )
            for worker in lacking
        ]
        # A dead or stuck worker is the supervisor's business; it must not hold up the others.
        answers = await asyncio.gather(*pushes, return_exceptions=True)
        taken = [w.name for w, answer in zip(lacking, answers, strict=True) if not isinstance(answer, BaseException)]
        self._delivered |= dict.fromkeys(taken, version)

    def _deliver_late(self) -> None:
        """Do so in the background: a worker that joined since the update has no weights, and a push can be lost."""
        if self._delivering is not None and self._delivering.done():
            self._delivering.result()
            self._delivering = None
        if self._delivering is None:
            self._delivering = asyncio.create_task(self._deliver())

    async def _record_version(self, version: int, ticket: Ticket | None) -> None:
        """Write a version row; `ticket` is the batch that made it, None for the weights the run began with."""
        row = await self._ranks[0].call(
            "version_row", version, deadline_s=self._deadline_s, awaiting=f"hash of version {version}"
        )
        self.weights_sha256 = row["weights_sha256"]
        if ticket is None and version > 0:
            return  # a resumed lineage begins with a copy of the version's row
        made = {"parent": ticket.version if ticket else None, "num_trained": ticket.samples if ticket else 0}
        await self._buffer.call(
            "record_version",
            row | made,
            deadline_s=self._deadline_s,
            awaiting=f"version row {version}",
        )

    async def _evaluate(self, version: int, packet: Any) -> None:
        assert self._evaluator is not None
        result = await self._evaluator.call(
            "evaluate",
            *packet,
            deadline_s=self._config.eval.deadline_s + self._deadline_s,
            awaiting=f"evaluation of version {version}",
        )
        self.evaluations[version] = result
        self._listener.evaluation(version, result)

    # -- bookkeeping ----------------------------------------------------------------------------

    def _due(self, every: int, version: int) -> bool:
        return every > 0 and version % every == 0 and version < self._config.updates

    def _spawn(self, work: Any) -> None:
        task = asyncio.create_task(work)
        # `_finish_jobs` raises; a run that ended otherwise has said why, and says nothing of forgotten jobs.
        task.add_done_callback(lambda job: job.cancelled() or job.exception())
        self._jobs.add(task)

    async def _finish_jobs(self) -> None:
        if self._delivering is not None:
            self._delivering.cancel()
            self._delivering = None
        jobs, self._jobs = list(self._jobs), set()
        await asyncio.gather(*jobs)
        if self._evaluating is not None:
            await self._evaluating
        if self._observer is not None:
            self.intrinsic = await self._observer.last()

    def _new_meter(self) -> Meter:
        return Meter(self.totals.began, "perf/fps" if self._config.is_decision else "perf/tokens_per_s")

    def _account(self, ticket: Ticket, answer: Mapping[str, float], stats: Mapping[str, Any]) -> None:
        totals = self.totals
        totals.updates += 1
        totals.samples += ticket.samples
        totals.tokens += ticket.tokens
        totals.waited_s += self._waited_s
        totals.ages += ticket.ages
        totals.spanning += ticket.metrics["staleness/spanning_share"] * ticket.samples
        totals.pauses_s += stats["pauses"]
        rates = self.meter.read(
            asyncio.get_running_loop().time(),
            stats["workers"],
            samples=ticket.samples,
            tokens=ticket.tokens,
            waited_s=self._waited_s,
        )
        held = {"buffer/held_bytes": float(stats["held_bytes"]), "buffer/unscored": float(stats["unscored"])}
        drops = {f"dropped/{reason}": float(count) for reason, count in stats["dropped"].items()}
        drops["staleness/dropped"] = float(stats["dropped"].get("stale", 0))
        if self._observer is not None:
            self.intrinsic = self._observer.poll()
        figures = {**ticket.metrics, **answer, **rates, **held, **drops, **self.intrinsic}
        self._listener.update(ticket.version + 1, figures, stats["pools"])
