"""The supervisor: one named actor per run that owns every pool.

It starts members, listens for their heartbeats, replaces the dead ones within a restart budget, tells
the members that depend on a pool who came and who left, and takes the commands of `launch.py`. It
knows specifications, not learners or rewards.

    a member dies -> its ping fails -> detach everywhere (its work is dispatched again) -> a new
    member under a new name -> attach everywhere
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from actors.member import MemberSpec
from configs.errors import DataError, DeadlineExceeded, MemberLost, RunError
from configs.schema import ClusterConfig

__all__ = ["Supervisor", "build"]


class Spawned(Protocol):
    """A handle that can also be built and killed."""

    name: str

    async def build(self, deadline_s: float) -> int: ...

    async def call(self, method: str, *args: Any, deadline_s: float, awaiting: str) -> Any: ...

    def kill(self) -> None: ...


@dataclass
class _Pool:
    spec: MemberSpec
    wanted: int
    members: dict[str, Spawned] = field(default_factory=dict)
    pids: dict[str, int] = field(default_factory=dict)
    seats: dict[str, int] = field(default_factory=dict)
    restarts: int = 0
    ordinals: itertools.count[int] = field(default_factory=itertools.count)


class Supervisor:
    """Keeps every pool at its wanted size."""

    def __init__(
        self,
        settings: ClusterConfig,
        spawn: Callable[[MemberSpec, str], Spawned],
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._settings, self._spawn, self._wall_clock = settings, spawn, wall_clock
        self._pools: dict[str, _Pool] = {}
        self._commands: list[str] = []
        self._events: list[tuple[float, str]] = []
        self._told = 0
        self._fatal = ""
        self._watch: asyncio.Task[None] | None = None
        self._changing = asyncio.Lock()

    # -- pools ----------------------------------------------------------------------------------

    async def start(self, spec: MemberSpec, count: int) -> list[Spawned]:
        """Create a pool and wait until its members are built; return their handles.

        Raises:
          DeadlineExceeded: a member did not start; the message names it.
          RunError: what a member's factory raised.
        """
        if spec.pool in self._pools:
            raise RunError(f"pool {spec.pool!r} exists already")
        pool = self._pools[spec.pool] = _Pool(spec, count)
        await asyncio.gather(*(self._add(pool) for _ in range(count)))
        if self._watch is None:
            self._watch = asyncio.get_running_loop().create_task(self._watch_members())
        return self.members(spec.pool)

    def members(self, pool: str) -> list[Spawned]:
        """Return the live members of a pool, by seat."""
        found = self._pool(pool)
        return [found.members[name] for name in sorted(found.members, key=found.seats.__getitem__)]

    async def scale(self, pool: str, count: int) -> dict[str, int]:
        """Grow or shrink a pool of a live run; returns the size before and after.

        Raises:
          DataError: there is no such pool, or it cannot have that size.
        """
        target = self._pool(pool)
        if count < 1 or (not target.spec.attached_to and count != target.wanted):
            raise DataError(f"pool {pool!r} cannot be scaled to {count}; only worker pools scale, to 1 or more")
        if target.spec.max_members is not None and count > target.spec.max_members:
            most = target.spec.max_members
            raise DataError(f"pool {pool!r} cannot be scaled to {count}; this run was started for at most {most}")
        before = len(target.members)
        async with self._changing:
            target.wanted = count
            while len(target.members) > count:
                await self._remove(target, next(reversed(target.members)), "scaled down")
            await asyncio.gather(*(self._add(target) for _ in range(count - len(target.members))))
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
        if self._fatal:
            raise RunError(self._fatal)
        commands, self._commands = self._commands, []
        events = [text for _, text in self._events[self._told :]]
        self._told = len(self._events)
        return commands, events

    def ping(self) -> dict[str, Any]:
        return {"fatal": self._fatal}

    def status(self) -> dict[str, Any]:
        """Return the members, process ids and restarts of every pool, and the latest events."""
        pools = {
            name: {"wanted": p.wanted, "members": list(p.members), "pids": p.pids, "restarts": p.restarts}
            for name, p in self._pools.items()
        }
        return {"pools": pools, "events": self._events[-20:], "fatal": self._fatal}

    async def close(self) -> None:
        """End every member, those that others depend on last."""
        if self._watch is not None:
            self._watch.cancel()
        for pool in reversed(self._pools.values()):
            for member in pool.members.values():
                member.kill()

    # -- inside ---------------------------------------------------------------------------------

    def _pool(self, name: str) -> _Pool:
        if name not in self._pools:
            raise DataError(f"there is no pool {name!r}; pools of this run: {', '.join(self._pools)}")
        return self._pools[name]

    async def _add(self, pool: _Pool) -> None:
        name, factory = f"{pool.spec.pool}-{next(pool.ordinals)}", pool.spec.factory
        pool.seats[name] = next(seat for seat in itertools.count() if seat not in pool.seats.values())
        if pool.spec.indexed:
            factory = replace(factory, arguments=(*factory.arguments, pool.seats[name]))
        member = self._spawn(replace(pool.spec, factory=factory), name)
        pool.pids[name] = await member.build(self._settings.start_deadline_s)
        pool.members[name] = member
        await self._tell(pool, "attach", member)
        for other in self._pools.values():
            if pool.spec.pool in other.spec.attached_to:
                for known in other.members.values():
                    await self._attach_to(member, other.spec.pool, known)

    async def _attach_to(self, listener: Spawned, pool: str, member: Spawned) -> None:
        await listener.call(
            "attach",
            pool,
            member,
            deadline_s=self._settings.call_deadline_s,
            awaiting=f"word that {member.name} joined",
        )

    async def _remove(self, pool: _Pool, name: str, why: str) -> None:
        member = pool.members.pop(name)
        pool.pids.pop(name, None)
        pool.seats.pop(name, None)
        self._note(f"{name} removed: {why}")
        await self._tell(pool, "detach", name)
        member.kill()

    async def _tell(self, pool: _Pool, method: str, who: Any) -> None:
        """Tell the members of the pools that depend on this one; a dead listener is noticed elsewhere."""
        for listening in pool.spec.attached_to:
            if listening not in self._pools:
                continue
            for listener in list(self._pools[listening].members.values()):
                try:
                    await listener.call(
                        method,
                        pool.spec.pool,
                        who,
                        deadline_s=self._settings.call_deadline_s,
                        awaiting=f"word that {pool.spec.pool} changed",
                    )
                except (MemberLost, DeadlineExceeded) as error:
                    self._note(f"{listener.name} was not told: {error}")

    async def _watch_members(self) -> None:
        while not self._fatal:
            await asyncio.sleep(self._settings.heartbeat_s)
            checks = [self._check(pool, name) for pool in self._pools.values() for name in list(pool.members)]
            for found in await asyncio.gather(*checks):
                for name, why in found.items():
                    await self._replace(name, why)

    async def _check(self, pool: _Pool, name: str) -> dict[str, str]:
        """Return the members found dead, with the reason: this one, or those it suspects."""
        member = pool.members.get(name)
        if member is None:
            return {}
        try:
            answer: Mapping[str, Any] = await member.call(
                "ping", deadline_s=self._settings.heartbeat_deadline_s, awaiting="heartbeat"
            )
        except RunError as error:
            return {name: str(error)}
        return dict(answer.get("suspects", {}))

    async def _replace(self, name: str, why: str) -> None:
        pool = next((p for p in self._pools.values() if name in p.members), None)
        if pool is None:
            return
        async with self._changing:
            await self._remove(pool, name, why)
            if pool.restarts >= pool.spec.max_restarts:
                used = f"its pool has no restarts left ({pool.restarts} used)"
                self._fatal = f"{name} died and {used}: {why}; resume=true goes on from the last checkpoint"
                return
            pool.restarts += 1
            await asyncio.sleep(min(0.1 * 2 ** (pool.restarts - 1), 5.0))
            try:
                await self._add(pool)
            except RunError as error:
                self._fatal = f"the replacement of {name} did not start: {error}"
        self._note(f"{name} replaced ({pool.restarts} restarts of pool {pool.spec.pool})")

    def _note(self, text: str) -> None:
        self._events.append((self._wall_clock(), text))


def build(
    settings: ClusterConfig, spawn: Callable[[MemberSpec, str], Spawned], wall_clock: Callable[[], float] = time.time
) -> Supervisor:
    """Build the supervisor inside its own process."""
    return Supervisor(settings, spawn, wall_clock)
