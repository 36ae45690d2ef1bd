"""An event loop on virtual time: where nothing is ready, the clock jumps to the next timer."""

from __future__ import annotations

import asyncio
import random
import selectors
from collections.abc import Callable
from typing import Any

__all__ = ["Stuck", "VirtualLoop"]


class Stuck(AssertionError):
    """Nobody will ever wake up again."""


class _Jumps(selectors.SelectSelector):
    """Advances a clock instead of waiting for files."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.on_step: Callable[[], None] = lambda: None

    def select(self, timeout: float | None = None) -> list[Any]:
        check, self.on_step = self.on_step, lambda: None
        check()  # not again once it has raised: what is left must be able to end
        self.on_step = check
        if timeout is None:
            raise Stuck("every task waits, and no timer is set")
        self.now += max(0.0, timeout)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """One thread; executors work on the loop itself and take random virtual time."""

    def __init__(self, rng: random.Random) -> None:
        self._jumps, self._rng = _Jumps(), rng
        self._free_at: dict[Any, float] = {}
        self.signal_handlers: dict[int, Callable[[], None]] = {}
        super().__init__(self._jumps)

    def time(self) -> float:
        return self._jumps.now

    def on_step(self, check: Callable[[], None]) -> None:
        """Call `check` before every turn of the loop."""
        self._jumps.on_step = check

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:  # type: ignore[override]
        """As a thread does: in order within an executor, and whether or not the caller still waits."""
        future = self.create_future()
        begins = max(self.time(), self._free_at.get(executor, 0.0)) if executor is not None else self.time()
        self._free_at[executor] = ends = begins + self._rng.lognormvariate(-3.0, 1.0)

        def execute() -> None:
            try:
                result = func(*args)
            except Exception as error:
                if not future.done():
                    future.set_exception(error)
            else:
                if not future.done():
                    future.set_result(result)

        self.call_at(ends, execute)
        return future

    def add_signal_handler(self, sig: int, callback: Callable[..., Any], *args: Any) -> None:
        self.signal_handlers[sig] = lambda: callback(*args)
