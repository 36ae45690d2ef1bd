"""The members of a run: who is there, who comes and who goes, and who must be told of it.

    a member dies    -> its ping fails -> detach everywhere (its work is dispatched again) -> a pause -> a new
                        member under a new name -> attach everywhere
                        (no room for it on the nodes that are left: it waits for a node, the others go on)
    a pool shrinks   -> dismiss everywhere (it gets nothing new, and ends what it has) -> detach everywhere -> end

Nothing here waits for anything else: each member has its own watch, each replacement and each farewell its own task.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import replace
from typing import Any

from actors.member import MemberSpec
from actors.pool import Pool, Spawned
from actors.restarts import RestartBudget
from configs.cluster import ClusterConfig
from configs.errors import DataError, DeadlineExceeded, MemberLost, NoRoom, RunError

__all__ = ["Roster", "now"]

CLOSE_DEADLINE_S = 5.0


class Roster:
    """Keeps every pool at its wanted size."""

    def __init__(
        self,
        settings: ClusterConfig,
        spawn: Callable[[MemberSpec, str], Spawned],
        wall_clock: Callable[[], float],
    ) -> None:
        self.pools: dict[str, Pool] = {}
        self.answers: dict[str, Mapping[str, Any]] = {}
        """member -> its last answer to a heartbeat"""
        self.events: list[tuple[float, str]] = []
        """(wall clock, what happened to members and pools)"""
        self.fatal = ""
        """What makes the run impossible to continue."""
        self._settings, self._spawn, self._wall_clock = settings, spawn, wall_clock
        self._jobs: dict[asyncio.Task[None], None] = {}

    async def open(self, spec: MemberSpec, count: int) -> Pool:
        """Create a pool and wait until its members are built.

        Raises:
          DeadlineExceeded: a member did not start; the message names it.
          RunError: what a member's factory raised.
        """
        if spec.pool in self.pools:
            raise RunError(f"pool {spec.pool!r} exists already")
        pool = Pool(spec, count, RestartBudget(spec.max_restarts, self._settings.restart_refill_s))
        self.pools[spec.pool] = pool
        await asyncio.gather(*(self._add_first(pool) for _ in range(count)))
        await self._complete(pool)
        return pool

    def pool(self, name: str) -> Pool:
        """Return a pool; DataError where there is none of that name."""
        if name not in self.pools:
            raise DataError(f"there is no pool {name!r}; pools of this run: {', '.join(self.pools)}")
        return self.pools[name]

    async def resize(self, pool: Pool, count: int) -> None:
        """Grow a pool, and wait for its new members, or shrink it, and let the farewells go on by themselves."""
        pool.wanted = count
        farewells: list[asyncio.Task[None]] = []
        while len(pool.members) > count:
            name, member = pool.members.popitem()
            pool.leaving[name] = member
            farewells.append(self.begin(self._dismiss(pool, name)))
        if pool.spec.max_members is not None and farewells and pool.missing > 0:
            await asyncio.wait(farewells)  # there are no seats for both
        try:
            await asyncio.gather(*(self._add(pool) for _ in range(pool.missing)))
        except RunError:
            pool.wanted = len(pool.members) + pool.starting
            raise

    def begin(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Do something beside all else; an error of it ends the run."""
        job = asyncio.get_running_loop().create_task(work)
        self._jobs[job] = None
        job.add_done_callback(self._ended)
        return job

    def note(self, text: str) -> None:
        """Remember what happened to a member or a pool."""
        self.events.append((self._wall_clock(), text))

    async def close(self) -> None:
        """End every member, those that others depend on last."""
        for job in list(self._jobs):
            job.cancel()
        for pool in reversed(self.pools.values()):
            members = (*pool.members.values(), *pool.leaving.values())
            if pool.spec.closes:
                await asyncio.gather(*(member.close(CLOSE_DEADLINE_S) for member in members))
                continue
            for member in members:
                member.kill()

    # -- coming and going -----------------------------------------------------------------------

    async def _add_first(self, pool: Pool) -> None:
        """Add a member; one that is killed on its way in is replaced as later ones are, where restarts are allowed."""
        try:
            await self._add(pool)
        except MemberLost as error:
            if not pool.spec.max_restarts:
                raise
            self.begin(self._replace(pool, f"a member of pool {pool.spec.pool}", str(error)))

    async def _complete(self, pool: Pool) -> None:
        """Wait for the replacements of members that died while they were built or made known."""
        ends = now() + self._settings.start_deadline_s
        while len(pool.members) < pool.wanted or pool.joining:
            if self.fatal:
                raise RunError(self.fatal)
            if now() > ends:
                latest = self.events[-1][1] if self.events else "nothing was heard of the others"
                started = f"{len(pool.members)} of {pool.wanted} members started"
                raise DeadlineExceeded(f"pool {pool.spec.pool}: {started}; {latest}")
            await asyncio.sleep(self._settings.heartbeat_s)

    async def _add(self, pool: Pool) -> None:
        pool.starting += 1
        name, factory = pool.new_name(), pool.spec.factory
        member: Spawned | None = None
        try:
            if pool.spec.indexed:
                factory = replace(factory, arguments=(*factory.arguments, pool.seats[name]))
            member = self._spawn(replace(pool.spec, factory=factory), name)
            pool.pids[name] = await member.build(self._settings.start_deadline_s)
        except BaseException:
            pool.forget(name)
            if member is not None:
                member.kill()
            raise
        finally:
            pool.starting -= 1
        pool.members[name] = member
        pool.joining += 1
        self.begin(self._watch(pool, member))
        try:
            await self._tell(pool, "attach", member)
            await self._introduce(pool, member)
        finally:
            pool.joining -= 1

    async def _introduce(self, pool: Pool, newcomer: Spawned) -> None:
        """Tell a new member of those that it depends on; one that cannot be told is replaced."""
        others = [other for other in self.pools.values() if pool.spec.pool in other.spec.attached_to]
        for name, known in [(other.spec.pool, known) for other in others for known in other.members.values()]:
            limit_s, awaiting = self._settings.call_deadline_s, f"word that {known.name} is there"
            try:
                await newcomer.call("attach", name, known, deadline_s=limit_s, awaiting=awaiting)
            except (MemberLost, DeadlineExceeded) as error:
                self._lost(newcomer.name, str(error))
                return

    async def _dismiss(self, pool: Pool, name: str) -> None:
        """Have a member end what it works on, then end it."""
        patience_s, member = self._settings.drain_deadline_s, pool.leaving[name]
        await self._tell(pool, "dismiss", name, patience_s, deadline_s=patience_s + self._settings.call_deadline_s)
        if pool.spec.drains and name in pool.leaving:
            try:
                await member.call("drain", deadline_s=patience_s, awaiting="the rest of what it holds")
            except RunError as error:
                self.note(f"{name} did not drain: {error}")
        await self._remove(pool, name, "scaled down", "")

    async def _remove(self, pool: Pool, name: str, why: str, fault: str) -> None:
        """End a member; `fault` is what others are told of its death, empty for a farewell."""
        if (member := pool.forget(name)) is None:
            return
        self.answers.pop(name, None)
        self.note(f"{name} removed: {why}")
        await self._tell(pool, "detach", name, fault)
        member.kill()

    async def _tell(self, pool: Pool, method: str, *words: Any, deadline_s: float | None = None) -> None:
        """Tell the members of the pools that depend on this one; a dead listener is noticed elsewhere."""
        listeners = [
            listener
            for listening in pool.spec.attached_to
            if listening in self.pools
            for listener in self.pools[listening].members.values()
        ]
        await asyncio.gather(*(self._tell_one(listener, pool, method, words, deadline_s) for listener in listeners))

    async def _tell_one(
        self, listener: Spawned, pool: Pool, method: str, words: tuple[Any, ...], deadline_s: float | None
    ) -> None:
        try:
            await listener.call(
                method,
                pool.spec.pool,
                *words,
                deadline_s=deadline_s or self._settings.call_deadline_s,
                awaiting=f"word that {pool.spec.pool} changed",
            )
        except (MemberLost, DeadlineExceeded) as error:
            self.note(f"{listener.name} did not {method}: {error}")

    # -- watching -------------------------------------------------------------------------------

    async def _watch(self, pool: Pool, member: Spawned) -> None:
        """Listen to one member until it is gone."""
        while not self.fatal:
            await asyncio.sleep(self._settings.heartbeat_s)
            if pool.members.get(member.name, pool.leaving.get(member.name)) is not member:
                return
            try:
                answer: Mapping[str, Any] = await member.ping(self._settings.heartbeat_deadline_s)
            except RunError as error:
                self._lost(member.name, str(error))
                return
            self._hear(member.name, answer)

    def _hear(self, name: str, answer: Mapping[str, Any]) -> None:
        """Take in what a member says of itself, of those it gives work to, and whom it suspects."""
        self.answers[name] = answer
        for suspect, why in answer.get("suspects", {}).items():
            self._lost(suspect, why)

    def _lost(self, name: str, why: str) -> None:
        for pool in self.pools.values():
            if name in pool.members or name in pool.leaving:
                self.begin(self._replace(pool, name, why))

    async def _replace(self, pool: Pool, name: str, why: str) -> None:
        await self._remove(pool, name, why, why)
        while pool.missing > 0 and not self.fatal:
            pause_s = pool.budget.take(now())
            if pause_s is None:
                used = f"its pool has no restarts left ({pool.budget.made} used)"
                self.fatal = f"{name} died and {used}: {why}; resume=true goes on from the last checkpoint"
                return
            pool.starting += 1
            await asyncio.sleep(pause_s)
            pool.starting -= 1
            if pool.missing <= 0:
                return  # the pool was made smaller meanwhile
            try:
                await self._add(pool)
            except NoRoom as error:  # its node was lost, perhaps: the others go on, and it waits for one
                pool.budget.give_back()
                if why != (why := f"{name} is not replaced yet: {error}"):
                    self.note(why)
                await asyncio.sleep(self._settings.heartbeat_s)
            except RunError as error:
                self.note(why := f"the replacement of {name} did not start: {error}")
            else:
                self.note(f"{name} replaced ({pool.budget.made} restarts of pool {pool.spec.pool})")

    # -- inside ---------------------------------------------------------------------------------

    def _ended(self, job: asyncio.Task[None]) -> None:
        self._jobs.pop(job, None)
        if not job.cancelled() and (error := job.exception()) is not None:
            self.fatal = self.fatal or f"the supervisor failed: {type(error).__name__}: {error}"


def now() -> float:
    """Return the loop's time in seconds."""
    return asyncio.get_running_loop().time()
