"""How plain objects call each other: handles.

A loop never knows whether the object behind a handle is a Ray actor (`actors.ray_adapter.RayHandle`)
or lives in this process (`LocalHandle`); so the control code that runs on a cluster is the code that
the simulator runs on a virtual clock. Every call has a deadline and says what it awaits.
"""

from __future__ import annotations

import asyncio
import inspect
import socket
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from configs.errors import DeadlineExceeded, MemberLost

__all__ = ["Handle", "HandleSet", "Listening", "LocalHandle", "free_address"]


class Handle(Protocol):
    """A callable reference to one member of a pool."""

    name: str

    async def call(self, method: str, *args: Any, deadline_s: float, awaiting: str) -> Any:
        """Call `method` and return its result.

        Args:
          method: name of a plain or coroutine method of the object behind the handle.
          deadline_s: seconds until DeadlineExceeded.
          awaiting: what is awaited, by id; the message of a missed deadline.

        Raises:
          MemberLost: the process is gone; the call may or may not have executed.
          DeadlineExceeded: no answer in time; the call may still execute.
          Exception: whatever the method raised.
        """
        ...

    def ref(self, method: str, *args: Any) -> Any:
        """Start a call and return a reference to its result, to be passed on as an argument."""
        ...


class LocalHandle:
    """A handle to an object in this process; the in-process adapter."""

    def __init__(self, name: str, target: object) -> None:
        self.name = name
        self._target: object | None = target

    async def call(self, method: str, *args: Any, deadline_s: float, awaiting: str) -> Any:
        try:
            async with asyncio.timeout(deadline_s):
                return await self._execute(method, [await a if inspect.isawaitable(a) else a for a in args])
        except TimeoutError as error:
            raise DeadlineExceeded(f"{self.name}.{method}: no {awaiting} within {deadline_s:g} s") from error

    def ref(self, method: str, *args: Any) -> Any:
        return asyncio.ensure_future(self._execute(method, list(args)))

    def kill(self) -> None:
        """Behave like a dead process from now on."""
        self._target = None

    async def _execute(self, method: str, args: list[Any]) -> Any:
        if self._target is None:
            raise MemberLost(f"{self.name} is gone; {method} was not delivered")
        result = getattr(self._target, method)(*args)
        if inspect.isawaitable(result):
            result = await result
        if self._target is None:
            raise MemberLost(f"{self.name} died during {method}")
        return result


class _Counted:
    """A handle that knows how many of its calls are under way."""

    def __init__(self, handle: Handle) -> None:
        self.name, self.handle = handle.name, handle
        self.under_way = 0
        self.heard = 0.0
        """Loop time of the last answer, or of the first call after none was under way."""
        self.quiet = asyncio.Event()
        self.quiet.set()

    async def call(self, method: str, *args: Any, deadline_s: float, awaiting: str) -> Any:
        if not self.under_way:
            self.heard = asyncio.get_running_loop().time()
        self.under_way += 1
        self.quiet.clear()
        try:
            return await self.handle.call(method, *args, deadline_s=deadline_s, awaiting=awaiting)
        finally:
            self.under_way -= 1
            self.heard = asyncio.get_running_loop().time()
            if not self.under_way:
                self.quiet.set()

    def ref(self, method: str, *args: Any) -> Any:
        return self.handle.ref(method, *args)


class HandleSet:
    """The live members of one pool; the supervisor attaches, retires and detaches, loops read.

    A member that retires is given no new work: iteration leaves it out, while what it works on goes on.
    """

    def __init__(self, pool: str) -> None:
        self.pool = pool
        self._members: dict[str, _Counted] = {}
        self._retiring: set[str] = set()
        self._left: set[str] = set()
        self._changed = asyncio.Event()
        self._listeners: list[Callable[[], None]] = []

    def attach(self, handle: Handle) -> None:
        """Take a member in, unless it has left: names are never reused, so this is a late or repeated call."""
        if handle.name not in self._left:
            self._members[handle.name] = _Counted(handle)
            self._announce()

    def detach(self, name: str) -> None:
        """Forget a member; unknown names are fine, since a death is often noticed twice."""
        self._left.add(name)
        self._retiring.discard(name)
        if self._members.pop(name, None) is not None:
            self._announce()

    async def dismiss(self, name: str, deadline_s: float) -> None:
        """Give a member no new work; return once no call to it is under way. Unknown names are fine.

        Raises:
          DeadlineExceeded: it still works on something.
        """
        self.leave(name)
        if (member := self._members.get(name)) is None:
            return
        try:
            async with asyncio.timeout(deadline_s):
                await member.quiet.wait()
        except TimeoutError as error:
            raise DeadlineExceeded(f"{name}: {member.under_way} calls did not end within {deadline_s:g} s") from error

    def leave(self, name: str) -> None:
        """Give a member no new work."""
        if name in self._members and name not in self._retiring:
            self._retiring.add(name)
            self._announce()

    def is_leaving(self, name: str) -> bool:
        """Return whether a member retires, or has left."""
        return name in self._retiring or name in self._left

    def under_way(self, now: float) -> dict[str, tuple[int, float]]:
        """Return member -> (calls under way, seconds since it answered any), where there are some."""
        busy = {name: member for name, member in self._members.items() if member.under_way}
        return {name: (member.under_way, now - member.heard) for name, member in busy.items()}

    def on_change(self, listener: Callable[[], None]) -> None:
        """Call `listener` after every attach and detach."""
        self._listeners.append(listener)

    async def changed(self, deadline_s: float) -> None:
        """Wait for the next attach or detach.

        Raises:
          DeadlineExceeded: the pool stayed as it was.
        """
        self._changed.clear()
        try:
            async with asyncio.timeout(deadline_s):
                await self._changed.wait()
        except TimeoutError as error:
            raise DeadlineExceeded(f"pool {self.pool}: no member joined or left within {deadline_s:g} s") from error

    def __getitem__(self, name: str) -> Handle:
        return self._members[name].handle

    def __contains__(self, name: str) -> bool:
        return name in self._members

    def __iter__(self) -> Iterator[Handle]:
        return iter([member for name, member in self._members.items() if name not in self._retiring])

    def __len__(self) -> int:
        return len(self._members) - len(self._retiring)

    def _announce(self) -> None:
        self._changed.set()
        for listener in self._listeners:
            listener()


def free_address(host: str = "127.0.0.1") -> str:
    """Return a TCP address of this machine where nobody listens, for ranks to meet at."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return f"tcp://{host}:{probe.getsockname()[1]}"


class Listening:
    """A member that calls those of other pools, and is told by the supervisor who comes and goes."""

    def __init__(self, *called: HandleSet) -> None:
        """Follow some pools; of others, nothing is remembered."""
        self._called = {members.pool: members for members in called}

    def attach(self, pool: str, handle: Handle) -> None:
        """A member joined, and may be called."""
        if pool in self._called:
            self._called[pool].attach(handle)

    async def dismiss(self, pool: str, name: str, deadline_s: float) -> None:
        """A member is about to leave: it is called no more; see `HandleSet.dismiss`."""
        if pool in self._called:
            await self._called[pool].dismiss(name, deadline_s)

    def detach(self, pool: str, name: str, fault: str = "") -> None:
        """A member is gone."""
        if pool in self._called:
            self._called[pool].detach(name)
