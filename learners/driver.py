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
import contextlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from buffers.messages import Ticket
from buffers.transport import Handle
from configs.errors import DeadlineExceeded, RunError
from configs.schema import RunConfig
from learners.account import OBSERVE_S, Account, Listener
from learners.delivery import Delivery

__all__ = ["LearnerDriver"]

POLL_S = 2.0
"""Longest wait for a batch before commands are looked at again."""
OBEY_S = 0.2
"""Between looks at commands: updates can be faster than anyone types."""


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
        observed: Mapping[str, Callable[[], Awaitable[Sequence[Handle]]]] | None = None,
    ) -> None:
        """Wire the driver.

        Args:
          observed: prefix of metrics -> returns the services beside the stream whose `stats` these are.
        """
        self.evaluations: dict[int, Mapping[str, float]] = {}
        self.stopping = ""
        self.weights_sha256 = ""
        self._config, self._buffer, self._ranks, self._evaluator = config, buffer, ranks, evaluator
        self._listener, self._commands = listener, commands
        self.account = Account(listener, observed or {}, rate="perf/fps" if config.is_decision else "perf/tokens_per_s")
        self.delivery = Delivery(config, ranks, workers)
        self._paused = False
        self._obeyed = -OBEY_S
        self._waited_s = 0.0
        self._jobs: set[asyncio.Task[None]] = set()
        self._evaluating: asyncio.Task[None] | None = None
        self._deadline_s = config.cluster.call_deadline_s

    def stop(self, reason: str) -> None:
        """Finish the present update, then end."""
        self.stopping = self.stopping or reason

    async def run(self, version: int) -> int:
        """Train from `version` until `updates`, or until told to stop; return the last version."""
        await self.delivery.publish(version)
        await self._record_version(version, None)
        self.account.begin()
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
        packet = await self._call_ranks("snapshot", version, self._deadline_s, f"snapshot of version {version}")
        self._evaluating = asyncio.create_task(self._evaluate(version, packet))
        if wait:
            await self._evaluating

    async def checkpoint(self, version: int, *, drained: bool = False) -> None:
        """Write a checkpoint; the ledger up to it is on disk before (`drained`: it is closed already)."""
        if not drained:
            await self._finish_jobs()
            await self._buffer.call("flush", deadline_s=self._deadline_s, awaiting="ledger on disk")
        figure = self.evaluations[max(self.evaluations)][self._config.headline] if self.evaluations else None
        await self._call_ranks("save", figure, self._config.learner.update_deadline_s, f"checkpoint {version}")
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
        transfer_s = await self.delivery.publish(version)
        wait = {"deadline_s": self._deadline_s}
        _, stats = await asyncio.gather(
            self._buffer.call("commit", ticket.version, **wait, awaiting=f"commit of version {ticket.version}"),
            self._buffer.call("stats", **wait, awaiting="buffer statistics"),
        )
        self._spawn(self._record_version(version, ticket))
        timing = {
            "time/update": updated - began,
            "time/wait_for_batch": self._waited_s,
            "time/weight_sync": transfer_s,
            "time/without_batch": 0.0,
        }
        self.account.update(ticket, self._waited_s, {**answers[0], **timing}, stats)
        return version

    async def _next_batch(self, version: int) -> Ticket | None:
        """Wait for the batch of `version`; None when told to stop meanwhile.

        After half of `cluster.progress_deadline_s` it has the buffer act, see `buffers.relief`.

        Raises:
          DeadlineExceeded: nothing came for `cluster.progress_deadline_s`; the message says what is missing.
        """
        loop = asyncio.get_running_loop()
        began = since = loop.time()
        limit_s, relief = self._config.cluster.progress_deadline_s, ""
        while True:
            await self._obey()
            if self.stopping:
                return None
            await self.delivery.serve_late()
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
                since = loop.time()  # a paused learner waits for nobody
                await asyncio.sleep(POLL_S / 4)
            except DeadlineExceeded as error:
                waited_s = loop.time() - since
                if waited_s > limit_s:
                    raise DeadlineExceeded(f"{error}; half way, this was done: {relief or 'nothing'}") from error
                if waited_s > limit_s / 2 and not relief:
                    relief = await self._relieve(limit_s / 2)
                await self._look(version, waited_s)

    async def _relieve(self, quiet_s: float) -> str:
        """Have the buffer take work from silent members; return what is awaited and was done."""
        awaiting = "relief of silent members"
        found: str = await self._buffer.call("relieve", quiet_s, deadline_s=self._deadline_s, awaiting=awaiting)
        self._listener.warning(f"no batch for {quiet_s:g} s; {found}")
        return found

    async def _look(self, version: int, waited_s: float) -> None:
        """Tell what is known while there is no batch; a buffer that does not answer is the caller's to judge."""
        with contextlib.suppress(DeadlineExceeded):
            stats = await self._buffer.call("stats", deadline_s=OBSERVE_S, awaiting="buffer statistics")
            self.account.waiting(version, waited_s, stats)

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

    async def _call_ranks(self, method: str, argument: Any, deadline_s: float, awaiting: str) -> Any:
        """Call all ranks, which do together what rank 0 returns."""
        calls = (rank.call(method, argument, deadline_s=deadline_s, awaiting=awaiting) for rank in self._ranks)
        return (await asyncio.gather(*calls))[0]

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
        self.delivery.cancel()
        jobs, self._jobs = list(self._jobs), set()
        await asyncio.gather(*jobs)
        if self._evaluating is not None:
            await self._evaluating
        await self.account.refresh()
