"""The in-process adapter: every member of a run is an object on this event loop.

The same control code as on Ray, without processes: for debugging (`cluster.address=local`) and for
tests that must act between two steps. Arguments are shared, not copied, and a kill is a member that
answers nothing any more.
"""

from __future__ import annotations

import asyncio
import inspect
import os
from typing import Any

from actors.member import MemberSpec
from buffers.records.metrics import Sink
from buffers.transport import LocalHandle
from configs.cluster import ClusterConfig
from configs.errors import DeadlineExceeded, RunError

__all__ = ["LocalMember", "connect", "end", "metrics_address", "sinks", "spawn", "store_figures"]

_closing: set[asyncio.Task[None]] = set()
"""Members that end in the background."""


class LocalMember(LocalHandle):
    """A handle whose object is built on demand; see `ray_adapter.RayHandle`."""

    def __init__(self, spec: MemberSpec, name: str) -> None:
        super().__init__(name, None)
        self._spec = spec

    async def build(self, deadline_s: float) -> int:
        """Build the object in this process; return the process id."""
        try:
            async with asyncio.timeout(deadline_s):
                built = self._spec.factory()
                self._target = await built if inspect.isawaitable(built) else built
        except TimeoutError as error:
            raise DeadlineExceeded(f"{self.name}: not built within {deadline_s:g} s") from error
        return os.getpid()

    async def call(self, method: str, *args: Any, deadline_s: float, awaiting: str) -> Any:
        """As on Ray: what a method raises arrives as a RunError."""
        try:
            return await super().call(method, *args, deadline_s=deadline_s, awaiting=awaiting)
        except (RunError, asyncio.CancelledError):
            raise
        except Exception as error:
            raise RunError(f"{self.name}.{method}: {type(error).__name__}: {error}") from error

    async def ping(self, deadline_s: float) -> Any:
        """Ask for a sign of life; there is one thread, so nothing answers while anything hangs."""
        return await self.call("ping", deadline_s=deadline_s, awaiting="heartbeat")

    def kill(self) -> None:
        """Answer nothing any more, and let the object's own loops end."""
        close = getattr(self._target, "close", None)
        super().kill()
        if close is not None and inspect.iscoroutine(closing := close()):
            task = asyncio.get_running_loop().create_task(closing)
            _closing.add(task)  # the loop itself keeps no strong reference
            task.add_done_callback(_closing.discard)

    async def close(self, deadline_s: float) -> None:
        """As `kill`, which closes."""
        self.kill()


def spawn(spec: MemberSpec, name: str) -> LocalMember:
    """Return a member that is not built yet."""
    return LocalMember(spec, name)


def connect(cluster: ClusterConfig, namespace: str) -> str:
    """There is nothing to join."""
    return "local"


def metrics_address() -> str:
    """Nobody exports metrics."""
    return ""


def sinks(run: str) -> list[Sink]:
    """Metrics go nowhere else."""
    return []


def store_figures() -> None:
    """There is no object store."""


async def end(supervisor: LocalMember) -> None:
    """End all members of a run."""
    await supervisor.call("close", deadline_s=30.0, awaiting="the end of all members")
    await asyncio.sleep(0)
