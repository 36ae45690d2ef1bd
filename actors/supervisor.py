"""The supervisor: one named actor per run that owns every pool.

It has the roster start members and keep every pool at its size (`actors.roster`), lets pools grow and shrink by
themselves, tells what is known of them, and takes the commands of `launch.py`. It knows specifications, not
learners or rewards.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any

from actors.decisions import DecisionLog
from actors.member import MemberSpec
from actors.pool import Pool, Spawned
from actors.roster import Roster, now
from actors.scaling import Load, decide
from buffers.load import loads, pool_figures
from configs.cluster import ClusterConfig
from configs.errors import RunError

__all__ = ["Supervisor", "build"]


class Supervisor:
    """What a run and its users may ask of the pools."""

    def __init__(
        self,
        settings: ClusterConfig,
        spawn: Callable[[MemberSpec, str], Spawned],
        store_figures: Callable[[], Awaitable[Mapping[str, float]]] | None = None,
        wall_clock: Callable[[], float] = time.time,
        decisions: DecisionLog | None = None,
    ) -> None:
        """Own no pool yet; `store_figures` tells the metrics of the object stores, where there are any."""
        self._settings, self._wall_clock = settings, wall_clock
        self._roster = Roster(settings, spawn, wall_clock)
        self._store_figures, self._decisions = store_figures, decisions
        self._commands: list[str] = []
        self._told = 0
        """Events that were taken."""

    # -- pools ----------------------------------------------------------------------------------

    async def start(self, spec: MemberSpec, count: int) -> list[Spawned]:
        """Create a pool and wait until its members are built; return their handles.

        Raises:
          DeadlineExceeded: a member did not start; the message names it.
          RunError: what a member's factory raised.
        """
        pool = await self._roster.open(spec, count)
        if spec.scaling.automatic:
            self._roster.begin(self._scale_by_itself(pool))
        return pool.by_seat()

    def members(self, pool: str) -> list[Spawned]:
        """Return the live members of a pool, by seat."""
        return self._roster.pool(pool).by_seat()

    async def scale(self, pool: str, count: int) -> dict[str, int]:
        """Grow or shrink a pool of a live run; returns the size before and after.

        Members that go end what they work on first; nobody waits for them here.

        Raises:
          DataError: there is no such pool, or it cannot have that size.
        """
        target = self._roster.pool(pool)
        target.check_size(count)
        before = len(target.members)
        target.scaling = replace(target.scaling, changed_at=now())
        await self._roster.resize(target, count)
        return {"before": before, "after": len(target.members)}

    # -- commands -------------------------------------------------------------------------------

    def request(self, command: str) -> None:
        """Leave a command for the learner driver: stop, pause, resume."""
        self._commands.append(command)

    def take_news(self) -> tuple[list[str], list[str]]:
        """Return (commands, what happened to members) since the last call.

        Raises:
          RunError: what makes the run impossible to continue.
        """
        if self._roster.fatal:
            raise RunError(self._roster.fatal)
        commands, self._commands = self._commands, []
        events = [text for _, text in self._roster.events[self._told :]]
        self._told = len(self._roster.events)
        return commands, events

    # -- what is known --------------------------------------------------------------------------

    def ping(self) -> dict[str, Any]:
        return {"fatal": self._roster.fatal}

    def status(self) -> dict[str, Any]:
        """Return what is known of every pool, see `Pool.describe`, and the latest events."""
        load = self.load()
        pools = {name: pool.describe() | {"load": load[name]} for name, pool in self._roster.pools.items()}
        return {"pools": pools, "events": self._roster.events[-20:], "fatal": self._roster.fatal}

    def load(self) -> dict[str, dict[str, float]]:
        """Return pool -> figures of its work, as of the last heartbeats; see `buffers.load.pool_figures`."""
        reports = loads(self._roster.answers.values())
        return {name: pool_figures(reports.get(name, [])) for name in self._roster.pools}

    async def stats(self) -> dict[str, float]:
        """Return the same as metrics, with the living members of each pool, and those of the object stores."""
        load = self.load()
        sizes = {name: float(len(pool.members)) for name, pool in self._roster.pools.items()}
        figures = {name: {"members": size, **load[name]} for name, size in sizes.items()}
        pools = {f"pool/{name}/{figure}": v for name, known in figures.items() for figure, v in known.items()}
        return pools | dict(await self._store_figures() if self._store_figures else {})

    async def close(self) -> None:
        """End every member, those that others depend on last."""
        await self._roster.close()

    # -- scaling by itself ----------------------------------------------------------------------

    async def _scale_by_itself(self, pool: Pool) -> None:
        while not self._roster.fatal:
            await asyncio.sleep(self._settings.heartbeat_s)
            load = Load.of(self.load()[pool.spec.pool])
            if load is None or pool.starting or pool.leaving:
                continue
            pool.scaling, decision = decide(pool.spec.scaling, pool.scaling, load, len(pool.members), now())
            if decision is None:
                continue
            pool.decision = replace(decision, time=self._wall_clock())
            change = f"{decision.before} -> {decision.after} members, since {decision.why}"
            self._roster.note(f"pool {pool.spec.pool}: {change}")
            if self._decisions is not None:
                self._decisions.write(pool.spec.pool, pool.decision, load)
            try:
                await self._roster.resize(pool, decision.after)
            except RunError as error:
                self._roster.note(f"pool {pool.spec.pool} did not reach {decision.after} members: {error}")
                pool.wanted = len(pool.members)


def build(
    settings: ClusterConfig,
    spawn: Callable[[MemberSpec, str], Spawned],
    store_figures: Callable[[], Awaitable[Mapping[str, float]]] | None = None,
    decisions: DecisionLog | None = None,
) -> Supervisor:
    """Build the supervisor inside its own process."""
    return Supervisor(settings, spawn, store_figures, decisions=decisions)
