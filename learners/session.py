"""One run from start to summary: pools up, warm start, stream, last checkpoint, drain.

supervisor -> learner ranks -> [warm start | resume] -> buffer, rewards, evaluator, workers -> driver
"""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from buffers.files import disk
from buffers.quarantine import quarantined
from buffers.records.alarm_log import alarm_totals
from buffers.records.audit import audit
from buffers.records.examples import example_rows
from buffers.records.report import write_report
from buffers.transport import Handle
from configs.errors import DeadlineExceeded, MemberLost, RunError
from configs.schema import RunConfig
from learners.account import Listener
from learners.driver import LearnerDriver
from learners.summary import summarise

__all__ = ["Plan", "Session"]

PROGRESS_S = 1.0
"""Between looks at the warm start."""


class Announcer(Protocol):
    """The part of the view that speaks of phases."""

    def phase(self, text: str) -> None: ...

    def warning(self, text: str) -> None: ...

    def progress(self, label: str, done: int, total: int, detail: str = "") -> None: ...


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How to make every pool; the specifications are the supervisor's, not ours."""

    learners: tuple[Any, int]
    """(specification, members)"""
    buffer: Callable[[int], Any]
    """weights version -> specification"""
    rewards: tuple[tuple[Any, int], ...]
    evaluator: Any | None
    workers: Callable[[Sequence[Callable[[], Any]]], Iterable[tuple[Any, int]]]
    """weights receiver factories -> (specification, members) of each pool that generates"""
    observed: Mapping[str, str] = field(default_factory=dict)
    """Pool -> prefix under which the `stats` of its members are metrics."""


class Session:
    """Conducts a run over handles; knows neither Ray nor how members are made."""

    def __init__(
        self, config: RunConfig, plan: Plan, *, supervisor: Handle, listener: Listener, announcer: Announcer
    ) -> None:
        self._config, self._plan, self._supervisor = config, plan, supervisor
        self._listener, self._announcer = listener, announcer
        self._deadline_s = config.cluster.start_deadline_s * 2
        self.driver: LearnerDriver | None = None
        self.version = 0

    async def run(self) -> str:
        """Run to the end; return `finished` or `stopped`.

        Raises:
          RunError: what made the run impossible to continue; everything trained so far is in the ledger.
        """
        ranks = await self._start(*self._plan.learners)
        # Not before: the evaluator opens the model folder that the learner makes. Servers import their libraries while
        # the warm start computes; what is wrong with them ends the run at once.
        _, evaluators = await asyncio.gather(self._first_weights(ranks), self._start_pools())
        buffer = (await self._start(self._plan.buffer(self.version), 1))[0]
        config = self._config
        driver = self.driver = LearnerDriver(
            config,
            buffer=buffer,
            ranks=ranks,
            evaluator=evaluators[0] if evaluators else None,
            workers=partial(self._members, config.rollout.policy_pool),
            listener=self._listener,
            commands=self._commands,
            observed={
                "": self._observed_pools,
                **{prefix: partial(self._members, pool) for pool, prefix in self._plan.observed.items()},
            },
        )
        try:
            self._handle_signals(driver)
            return await self._stream(driver, buffer, ranks[0])
        except MemberLost as error:
            await self._drain(buffer, "run_ended")
            raise RunError(f"{error}; resume=true goes on from the last checkpoint") from error
        except BaseException:
            await self._drain(buffer, "run_ended")
            raise

    def summarise(self, folder: Path, status: str, wall_s: float) -> dict[str, Any]:
        """Write summary.json and report.html of a run that ended, well or not; return the summary."""
        if self.driver is None:
            return {}
        totals = audit(folder).totals
        summary = summarise(
            self._config, self.driver, status=status, version=self.version, trajectories=totals,
            alarms=alarm_totals(folder), wall_s=wall_s,
        ) | {"quarantined": quarantined(folder)}  # fmt: skip
        with disk(folder):
            (folder / "summary.json").write_text(json.dumps(summary, indent=1))
            if self._config.logging.report:
                return summary | {"report": str(write_report(folder, example_rows(folder)))}
        return summary

    async def _stream(self, driver: LearnerDriver, buffer: Handle, rank: Handle) -> str:
        self._announcer.phase("evaluation before RL")
        await driver.evaluate(self.version, wait=True)
        receivers = await self._call(rank, "receivers", "weights receivers")
        for spec, count in self._plan.workers(receivers):
            await self._start(spec, count)
        await self._call(buffer, "start", "start of the stream")
        self._announcer.phase(f"streaming: {self._config.updates} updates, max_staleness {self._config.max_staleness}")
        self.version = await driver.run(self.version)
        self._announcer.phase(driver.stopping or "evaluation after RL")
        await self._drain(buffer, "run_ended")
        if not driver.stopping:
            await driver.evaluate(self.version, wait=True)
        await driver.checkpoint(self.version, drained=True)
        return "stopped" if driver.stopping else "finished"

    async def _first_weights(self, ranks: Sequence[Handle]) -> None:
        resumed: int | None = None
        if self._config.resume:
            self._announcer.phase("loading the newest checkpoint")
            resumed = (await self._call_all(ranks, "resume", "checkpoint"))[0]
        if resumed is not None:
            self.version = resumed
        elif wanted := self._config.warm_start.updates:
            self._announcer.phase(f"warm start: up to {wanted} supervised updates")
            updates, loss = await self._warm_start(ranks, wanted)
            self._announcer.phase(f"warm start ended after {updates} updates at {loss:.3f} nats per token")

    async def _warm_start(self, ranks: Sequence[Handle], wanted: int) -> tuple[int, float]:
        """Return (updates made, last loss).

        It may take any time while it gets on; owner of the wait: rank 0.
        """
        patience_s, loop = self._config.learner.update_deadline_s, asyncio.get_running_loop()
        training = asyncio.create_task(self._call_all(ranks, "warm_start", "warm start", patience_s * (wanted + 1)))
        last, since = 0, loop.time()
        while not (await asyncio.wait([training], timeout=PROGRESS_S))[0]:
            made, loss = await self._call(ranks[0], "warm_start_progress", "progress of the warm start")
            if made > last:
                last, since = made, loop.time()
                self._announcer.progress("warm start", made, wanted, f"{loss:.3f} nats per token")
            elif loop.time() - since > patience_s:
                training.cancel()
                raise DeadlineExceeded(f"warm start: no update within {patience_s:g} s (learner.update_deadline_s)")
        result: tuple[int, float] = training.result()[0]
        return result

    async def _call_all(
        self, ranks: Sequence[Handle], method: str, awaiting: str, deadline_s: float | None = None
    ) -> list[Any]:
        """Call every rank at once: their collectives wait for each other."""
        limit = self._deadline_s if deadline_s is None else deadline_s
        return await asyncio.gather(*(rank.call(method, deadline_s=limit, awaiting=awaiting) for rank in ranks))

    async def _commands(self) -> Sequence[str]:
        """Pass on what happened to members; return what users ask of the learner."""
        commands, events = await self._supervisor.call("take_news", **self._wait("commands"))
        for event in events:
            self._announcer.warning(event)
        asked: Sequence[str] = commands
        return asked

    async def _members(self, pool: str) -> Sequence[Handle]:
        members: Sequence[Handle] = await self._supervisor.call("members", pool, **self._wait("members"))
        return members

    async def _observed_pools(self) -> Sequence[Handle]:
        """Who knows the load of every pool."""
        return [self._supervisor]

    async def _start_pools(self) -> list[Handle]:
        """Start all pools that score, at once; return the evaluator, if there is one."""
        evaluator = [(self._plan.evaluator, 1)] if self._plan.evaluator else []
        started = await asyncio.gather(*(self._start(*pool) for pool in (*self._plan.rewards, *evaluator)))
        return started[-1] if evaluator else []

    async def _start(self, spec: Any, count: int) -> list[Handle]:
        members: list[Handle] = await self._supervisor.call(
            "start", spec, count, deadline_s=self._deadline_s, awaiting=f"{count} members of a pool"
        )
        return members

    async def _drain(self, buffer: Handle, reason: str) -> None:
        try:
            await self._call(buffer, "drain", "ledger and payloads on disk", reason)
        except RunError as error:
            self._announcer.warning(f"the buffer did not drain: {error}")

    async def _call(self, handle: Handle, method: str, awaiting: str, *args: Any) -> Any:
        return await handle.call(method, *args, **self._wait(awaiting))

    def _wait(self, awaiting: str) -> Mapping[str, Any]:
        return {"deadline_s": self._deadline_s, "awaiting": awaiting}

    def _handle_signals(self, driver: LearnerDriver) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, driver.stop, f"stopped by {number.name}; writing a checkpoint")
