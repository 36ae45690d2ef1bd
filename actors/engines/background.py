"""An event loop in a thread of its own: what lives there goes on while its owner does something else."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

from configs.errors import DeadlineExceeded

__all__ = ["BackgroundLoop"]

T = TypeVar("T")

END_S = 10.0


class BackgroundLoop:
    """Runs coroutines for callers of other threads; every wait names what it awaits."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=name, daemon=True)
        self._thread.start()

    def call(self, coroutine: Coroutine[Any, Any, T], deadline_s: float, awaiting: str) -> T:
        """Run a coroutine there and return its result; the caller's thread waits.

        Raises:
          DeadlineExceeded: it took longer than `deadline_s`; it is cancelled then.
        """
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result(deadline_s)
        except TimeoutError as error:
            future.cancel()
            raise DeadlineExceeded(f"{self._name}: no {awaiting} within {deadline_s:g} s") from error

    async def wait(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine there and wait for it in the caller's own event loop; it has a deadline of its own."""
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(coroutine, self._loop))

    def post(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Start a coroutine there; those of one thread begin in the order of their calls."""
        asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def close(self) -> None:
        """End the thread; what still runs there stops where it is."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(END_S)
        if not self._thread.is_alive():
            self._loop.close()
