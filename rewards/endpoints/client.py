"""Requests to language models that may be slow, overloaded, broken or gone.

post(body, until) -> route -> slot -> turn -> request -> answer, or a failure that says why there is none
                      |                          |
                      '---<--- pause ---<--------'  failed, and worth another try; at once where the server is gone

X waits for                  at most               woken by
a request, for a route       2 breaker_reset_s     a server that may be asked again; while there is none at all, `until`
a request, for a slot        `until`               a request that ends
a slot, for its turn         `until`               the rate limit, or the end of what Retry-After asked for
a try, for its reply         request_deadline_s    the server; then the try has failed
a retry, for its turn        `until`               its back-off
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from buffers.scores import ScoreStatus
from configs.errors import MemberLost
from rewards.answers import Failure
from rewards.breaker import BreakerState
from rewards.endpoints.pace import Pace
from rewards.endpoints.routes import Reply, Route, Routes, Server

__all__ = ["Client", "Limits"]

MAX_BACKOFF_S = 30.0
MAX_HOLD_S = 300.0
"""That Retry-After can keep us away before we ask again, whatever it says."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What servers are spared, and what we are."""

    concurrency: int
    """Requests at a time."""
    requests_per_s: float | None
    request_deadline_s: float
    """Of one try."""
    retries: int
    """Further tries of a request that failed."""
    backoff_s: float
    """Pause before the first of them; doubles with each, times a random factor in [0.5, 1.5]."""


class Client:
    """Posts JSON to one of some equal servers; never raises for what the other side does."""

    def __init__(self, routes: Routes, limits: Limits, gate: Callable[[], Failure | None] = lambda: None) -> None:
        """Open nothing yet.

        Args:
          gate: asked before each try, when its turn has come; a failure ends the request.
        """
        self._routes, self._limits, self._gate = routes, limits, gate
        self._rng = random.Random()  # from the system: members of one seed must not retry in step
        self._slots = asyncio.Semaphore(limits.concurrency)
        self._pace = Pace(limits.requests_per_s)
        self.counters: Counter[str] = Counter()

    async def post(self, body: dict[str, Any], until: float) -> dict[str, Any] | Failure:
        """Return the JSON object that a server answers, or why there is none by loop time `until`."""
        answer: dict[str, Any] | Failure = Failure(
            ScoreStatus.TIMEOUT, "never asked; no server is there, or concurrency or rate allow no more"
        )
        try:
            async with asyncio.timeout_at(until):
                for attempt in range(self._limits.retries + 1):
                    if attempt:
                        self.counters["retries"] += 1
                        await asyncio.sleep(self._pause_s(attempt))
                    answer = await self._try(body)
                    if not isinstance(answer, Failure) or answer.final:
                        break
        except TimeoutError:
            last = answer.detail if isinstance(answer, Failure) else "none"
            return Failure(ScoreStatus.TIMEOUT, f"no reply of {self._routes.name} by the deadline; last: {last}")
        return answer

    async def close(self) -> None:
        """Close all connections; a later `post` opens new ones."""
        await self._routes.close()

    def _pause_s(self, attempt: int) -> float:
        return min(MAX_BACKOFF_S, self._limits.backoff_s * 2.0 ** (attempt - 1)) * self._rng.uniform(0.5, 1.5)

    async def _try(self, body: dict[str, Any]) -> dict[str, Any] | Failure:
        """Return what one server answers; a server that is gone counts as none."""
        while not isinstance(route := await self._routes.admitted(), Failure):
            try:
                reply = await self._visit(route, body)
            except MemberLost:
                self.counters["lost"] += 1
                continue
            if reply is None:
                continue
            self._pace.hold(min(MAX_HOLD_S, reply.hold_s))
            return reply.answer
        self.counters["refused"] += 1
        return route

    async def _visit(self, route: Route, body: dict[str, Any]) -> Reply | None:
        """Return the reply of a server; None where others found it broken before it was this request's turn."""
        reply: Reply | None = None
        route.load += 1
        try:
            async with self._slots:
                await self._pace.turn()
                if route.circuit.state is BreakerState.OPEN:
                    return None
                if stopped := self._gate():
                    return Reply(stopped)
                reply = await self._send(route.server, body)
                return reply
        finally:
            route.load -= 1
            self._record(route, reply)

    async def _send(self, server: Server, body: dict[str, Any]) -> Reply:
        limit_s = self._limits.request_deadline_s
        self.counters["requests"] += 1
        try:
            async with asyncio.timeout(limit_s):
                reply = await server.send(body, limit_s)
        except TimeoutError:
            reply = Reply(Failure(ScoreStatus.TIMEOUT, f"{server.name}: no reply within {limit_s:g} s"), sound=False)
        self.counters["failed_requests"] += isinstance(reply.answer, Failure)
        return reply

    def _record(self, route: Route, reply: Reply | None) -> None:
        if reply is None:
            route.circuit.forget()
            return
        if isinstance(reply.answer, Failure) and not reply.sound:
            route.last = reply.answer
        route.circuit.record(reply.sound)
