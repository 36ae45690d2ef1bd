"""Processes and the calls between them, in one thread: the adapter of the simulation.

A call travels (delay, loss, duplicates), executes in a task of the process that it reached, and its answer
travels back. As on Ray, a caller that gives up does not stop the execution, and a process that dies takes
all its tasks along; callers then get MemberLost, whether or not their call was executed.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from sim_trace import Trace

from actors.member import MemberSpec
from configs.errors import DeadlineExceeded, MemberLost, RunError

__all__ = ["Fate", "Network", "Process", "SimHandle", "current_process"]

_current: contextvars.ContextVar[Process | None] = contextvars.ContextVar("process", default=None)
GONE_S = 0.01
"""Until a caller learns that a process is dead."""


def current_process() -> Process | None:
    """Return the process whose code runs now; None is the simulation itself."""
    return _current.get()


@dataclass(kw_only=True)
class Fate:
    """What happens to one call."""

    arrives_after: tuple[float, ...] = (0.0,)
    """Seconds; one entry per delivery, none when the request is lost."""
    answers_after: float = 0.0
    answer_lost: bool = False


@dataclass(eq=False)
class Process:
    """What dies together."""

    name: str
    alive: bool = True
    stalled_until: float = 0.0
    """Loop time before which it takes no call."""
    tasks: dict[asyncio.Task[Any], None] = field(default_factory=dict)
    callers: dict[asyncio.Future[Any], None] = field(default_factory=dict)

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run a coroutine inside this process; so runs everything that it starts."""
        context = contextvars.copy_context()
        context.run(_current.set, self)
        return asyncio.get_running_loop().create_task(work, context=context)

    def kill(self) -> None:
        self.alive = False
        loop = asyncio.get_running_loop()
        for answer in self.callers:
            loop.call_later(GONE_S, _settle, answer, None, MemberLost(f"{self.name} died during a call"))
        for task in list(self.tasks):
            task.cancel()


class Network:
    """Spawns processes and carries their calls."""

    def __init__(self, trace: Trace, fate: Callable[[str, str, bool], Fate]) -> None:
        self.trace, self._fate = trace, fate
        self.processes: list[Process] = []
        self.handles: list[SimHandle] = []

    def task_factory(
        self, loop: asyncio.AbstractEventLoop, coro: Coroutine[Any, Any, Any], **arguments: Any
    ) -> asyncio.Task[Any]:
        """Note which process a task belongs to."""
        context: contextvars.Context | None = arguments.get("context")
        process = context.get(_current) if context else current_process()
        task = asyncio.Task(coro, loop=loop, **arguments)
        if process is not None:
            process.tasks[task] = None
            task.add_done_callback(lambda done: process.tasks.pop(done, None))
        return task

    def spawn(self, spec: MemberSpec, name: str) -> SimHandle:
        """Return a handle to a new process that is not built yet."""
        process = Process(name)
        self.processes.append(process)
        handle = SimHandle(self, process, spec)
        self.handles.append(handle)
        return handle

    def call(
        self, handle: SimHandle, method: str, args: tuple[Any, ...], *, may_lose: bool = True
    ) -> asyncio.Future[Any]:
        """Send a call on its way; return the future of its answer."""
        caller, loop = current_process(), asyncio.get_running_loop()
        answer: asyncio.Future[Any] = loop.create_future()
        answer.add_done_callback(_retrieve)
        if caller is not None and not caller.alive:
            return answer  # a dead process sends nothing
        fate = self._fate(handle.spec.pool, method, may_lose)
        handle.process.callers[answer] = None
        answer.add_done_callback(lambda done: handle.process.callers.pop(done, None))
        for delay in fate.arrives_after:
            at = max(loop.time() + delay, handle.process.stalled_until)
            loop.call_at(at, self._arrive, handle, method, args, answer, fate)
        return answer

    def _arrive(
        self, handle: SimHandle, method: str, args: tuple[Any, ...], answer: asyncio.Future[Any], fate: Fate
    ) -> None:
        self.trace.note(handle.name, method)
        if not handle.process.alive:
            _settle(answer, None, MemberLost(f"{handle.name} is gone; {method} was not delivered"))
            return
        task = handle.process.spawn(handle.execute(method, args))
        task.add_done_callback(lambda done: self._executed(handle, method, done, answer, fate))

    def _executed(
        self, handle: SimHandle, method: str, done: asyncio.Task[Any], answer: asyncio.Future[Any], fate: Fate
    ) -> None:
        if done.cancelled():
            return  # killed; the callers know
        error = done.exception()
        self.trace.note(handle.name, method, "answers" if error is None else f"raises {error}")
        if error is not None and not isinstance(error, RunError | Exception):
            raise error
        if not fate.answer_lost:
            result = None if error is not None else done.result()
            asyncio.get_running_loop().call_later(fate.answers_after, _settle, answer, result, error)


class SimHandle:
    """A handle as the supervisor and the loops expect it."""

    def __init__(self, network: Network, process: Process, spec: MemberSpec) -> None:
        self.name, self.process, self.spec = process.name, process, spec
        self.target: Any = None
        self._network = network

    async def build(self, deadline_s: float) -> int:
        """Build the object inside its process; return a made-up process id."""
        await self._answered(self._network.call(self, "build", ()), "build", deadline_s, "its start")
        return len(self._network.processes)

    async def call(self, method: str, *args: Any, deadline_s: float, awaiting: str) -> Any:
        return await self._answered(self._network.call(self, method, args), method, deadline_s, awaiting)

    async def ping(self, deadline_s: float) -> Any:
        return await self.call("ping", deadline_s=deadline_s, awaiting="heartbeat")

    def ref(self, method: str, *args: Any) -> asyncio.Future[Any]:
        """As on Ray: a reference gets its value, or the error of the process that should have made it."""
        return self._network.call(self, method, args, may_lose=False)

    def kill(self) -> None:
        if self.process.alive:
            self._network.trace.note(self.name, "killed")
            self.process.kill()

    async def execute(self, method: str, args: tuple[Any, ...]) -> Any:
        """Call the object; runs in the process."""
        given = [await asyncio.shield(a) if isinstance(a, asyncio.Future) else a for a in args]
        if method == "build":
            self.target = await _value(self.spec.factory())
            return None
        try:
            return await _value(getattr(self.target, method)(*given))
        except (RunError, AssertionError):
            raise
        except Exception as error:
            raise RunError(f"{self.name}.{method}: {type(error).__name__}: {error}") from error

    async def _answered(self, answer: asyncio.Future[Any], method: str, deadline_s: float, awaiting: str) -> Any:
        try:
            async with asyncio.timeout(deadline_s):
                return await answer
        except TimeoutError as error:
            raise DeadlineExceeded(f"{self.name}.{method}: no {awaiting} within {deadline_s:g} s") from error


async def _value(result: Any) -> Any:
    return await result if inspect.isawaitable(result) else result


def _settle(answer: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    if answer.done():
        return  # the other delivery was faster, or nobody waits
    if error is not None:
        answer.set_exception(error)
    else:
        answer.set_result(result)


def _retrieve(answer: asyncio.Future[Any]) -> None:
    # Reading the exception keeps asyncio from reporting calls whose caller died.
    if not answer.cancelled():
        answer.exception()
