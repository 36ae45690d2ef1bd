"""Which of several equal servers a request goes to: the least loaded one whose circuit is closed.

A server that failed `failures` times in a row is left alone for `reset_s`, then probed by one request. While all
are left alone, a request waits `reset_s` for one of them, twice that while one is being probed, and is then refused
without having been sent: a dead server costs its callers seconds, and it is not asked in vain again and again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any, NamedTuple, Protocol

from buffers.scores import ScoreStatus
from rewards.answers import Failure
from rewards.breaker import BreakerState, CircuitBreaker

__all__ = ["Reply", "Route", "Routes", "Server"]

LOOK_S = 0.05
"""Between two looks for a server that may be asked again."""


class Reply(NamedTuple):
    """What came of one request."""

    answer: dict[str, Any] | Failure
    sound: bool = True
    """The server works, whatever it answered: not unreachable, silent, broken or talking nonsense."""
    hold_s: float = 0.0
    """How long it asks to be spared."""


class Server(Protocol):
    """One place where requests are answered."""

    name: str

    async def send(self, body: dict[str, Any], deadline_s: float) -> Reply:
        """Return the reply to a request.

        Raises:
          MemberLost: the server is gone for good, and has left its routes.
        """
        ...

    async def close(self) -> None:
        """Close all connections."""
        ...


class Route:
    """One server, how much it has to do, and whether it may be asked."""

    def __init__(self, server: Server, circuit: CircuitBreaker) -> None:
        self.server, self.circuit = server, circuit
        self.load = 0
        self.last = Failure(ScoreStatus.ERROR, "none")
        """Failure for which it counts as broken."""


class Routes:
    """Servers that come and go."""

    def __init__(self, name: str, *, failures: int, reset_s: float, servers: Iterable[Server] = ()) -> None:
        """Know `servers` from the start; `name` is what messages call them."""
        self.name = name
        self._failures, self._reset_s = failures, reset_s
        self._routes: dict[str, Route] = {}
        self._joined = asyncio.Event()
        for server in servers:
            self.join(server)

    def join(self, server: Server) -> None:
        """Take in a server, unless it is known."""
        self._routes.setdefault(server.name, Route(server, CircuitBreaker(self._failures, self._reset_s)))
        self._joined.set()

    def leave(self, name: str) -> None:
        """Forget a server."""
        self._routes.pop(name, None)
        if not self._routes:
            self._joined.clear()

    def names(self) -> list[str]:
        """Return the names of all servers."""
        return list(self._routes)

    async def admitted(self) -> Route | Failure:
        """Return a server that may be asked now, or why none may; waits for one to join while there is none.

        The circuit must be told how it went, by `record` or `forget`.
        """
        loop = asyncio.get_running_loop()
        began = loop.time()
        while True:
            await self._joined.wait()
            routes = sorted(self._routes.values(), key=lambda route: route.load)
            for route in routes:
                if await route.circuit.admit(loop.time()):
                    return route
            probed = any(route.circuit.state is BreakerState.HALF_OPEN for route in routes)
            if loop.time() >= began + (1 + probed) * self._reset_s:
                last = routes[0].last
                what = f"{self.name}: not asked, since {self._failures} requests in a row failed; last: {last.detail}"
                return Failure(last.status, what, final=True)
            await asyncio.sleep(LOOK_S)

    async def close(self) -> None:
        """Close the connections of all servers."""
        for route in self._routes.values():
            await route.server.close()
