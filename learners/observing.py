"""Figures of services beside the stream, polled without ever holding it up."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence

from buffers.transport import Handle
from configs.errors import RunError

__all__ = ["Observer"]


class Observer:
    """Asks services for their `stats` in the background: an update shows the answers to the question before."""

    def __init__(
        self,
        services: Callable[[], Awaitable[Sequence[Handle]]],
        *,
        prefix: str,
        deadline_s: float,
        interval_s: float = 0.0,
    ) -> None:
        """Observe what `services` returns at each poll; names of figures get `prefix`.

        Args:
          interval_s: shortest time between two questions.
        """
        self._services, self._prefix, self._deadline_s = services, prefix, deadline_s
        self._interval_s, self._asked_s = interval_s, -math.inf
        self._figures: dict[str, float] = {}
        self._asking: asyncio.Task[dict[str, float]] | None = None

    def poll(self) -> Mapping[str, float]:
        """Return the newest figures known, and ask again unless an answer is still awaited."""
        loop = asyncio.get_running_loop()
        if self._asking is None:
            if loop.time() >= self._asked_s + self._interval_s:
                self._asking, self._asked_s = loop.create_task(self._ask()), loop.time()
        elif self._asking.done():
            self._figures, self._asking = self._asking.result(), None
            return self.poll()
        return self._figures

    async def last(self) -> Mapping[str, float]:
        """Return figures asked for now; waits for at most two deadlines."""
        if self._asking is not None:
            await self._asking
        self._asked_s = -math.inf
        self.poll()
        assert self._asking is not None
        await self._asking
        self.poll()
        return await self.close()

    async def close(self) -> Mapping[str, float]:
        """Stop asking; return what is known."""
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.gather(self._asking, return_exceptions=True)
            self._asking = None
        return self._figures

    async def _ask(self) -> dict[str, float]:
        """Return the figures of all services; a dead, slow or broken one is the supervisor's business."""
        try:
            services = await self._services()
        except RunError:
            return self._figures
        calls = (s.call("stats", deadline_s=self._deadline_s, awaiting=f"figures of {s.name}") for s in services)
        answers = await asyncio.gather(*calls, return_exceptions=True)
        known = [answer for answer in answers if not isinstance(answer, BaseException)]
        found = {f"{self._prefix}{name}": float(value) for stats in known for name, value in stats.items()}
        return found or self._figures
