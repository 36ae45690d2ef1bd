"""Ray, behind the handle interface: the one place where actors are created, called and killed.

Every actor of a run is a `Member`: a thin shell around a plain object that a factory builds inside
the actor's own process. Ray's errors end here; callers see `MemberLost` and `DeadlineExceeded`.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import inspect
import os
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

# Ray reads these when it is imported. Local clusters demand the user's token, and whoever joins one by its
# address must say so; accelerators stay visible to actors without one; all processes have equal priority.
os.environ.setdefault("RAY_AUTH_MODE", "token")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
os.environ.setdefault("RAY_worker_niceness", "0")

import pyarrow as pa
import ray
from ray._private import ray_constants
from ray.exceptions import GetTimeoutError, ObjectLostError, RayActorError, RayTaskError

from actors import ray_metrics
from actors.exits import ExitWatch, Process
from actors.member import MemberSpec
from buffers.ipc import from_ipc, to_ipc
from buffers.records.metrics import Sink
from configs.cluster import ClusterConfig
from configs.errors import DataError, DeadlineExceeded, MemberLost, RunError
from configs.registry import Deferred

__all__ = [
    "Member",
    "RayHandle",
    "connect",
    "end",
    "find",
    "first_line",
    "leave",
    "local_cpus",
    "metrics_address",
    "sinks",
    "spawn",
    "store_figures",
]

CLOSE_DEADLINE_S = 30.0
LOOPBACK = ("127.", "localhost")
HAS_CLUSTERS = ray_constants.ENABLE_RAY_CLUSTER
"""What the environment says of it (RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER)."""
GARBAGE_THRESHOLDS = (50_000, 10, 10)
"""Of Python's collector, in the processes of members. With its own of 700, a simulated stream in one process spent 2.5
of 7.7 s of its thread in walks over all that is held. What forms no circle is freed at once either way."""
PULSE = "pulse"
"""The concurrency group, hence event loop and thread, of heartbeats."""


class Member:
    """The shell: builds the plain object and delegates."""

    def __init__(self, factory: Deferred) -> None:
        self._factory = factory
        self._target: Any = None
        gc.set_threshold(*GARBAGE_THRESHOLDS)
        _send_tables_as_ipc()

    async def build(self) -> Process:
        """Build the object; separate from the constructor so that its errors reach the caller."""
        if self._target is None:
            built = self._factory()
            self._target = await built if inspect.isawaitable(built) else built
        return Process.mine()

    async def call(self, method: str, *args: Any) -> Any:
        result = getattr(self._target, method)(*args)
        return await result if inspect.isawaitable(result) else result


class RayHandle:
    """A handle to a `Member`; picklable, so pools can be handed around."""

    def __init__(self, name: str, actor: Any, own_pulse: bool = False, process: Process | None = None) -> None:
        self.name, self._actor, self._own_pulse, self._process = name, actor, own_pulse, process
        self._exit: ExitWatch | None = None

    @property
    def parts(self) -> tuple[str, Any, bool, Process | None]:
        """What a handle is made of."""
        return self.name, self._actor, self._own_pulse, self._process

    def __reduce__(self) -> Any:
        return RayHandle, self.parts

    async def build(self, deadline_s: float) -> int:
        """Wait until the object behind the handle is built; return its process id."""
        process: Process = await self._answer(self._actor.build.remote(), "build", deadline_s, "its start")
        self._process = process
        return process.pid

    async def call(self, method: str, *args: Any, deadline_s: float, awaiting: str) -> Any:
        return await self._answer(self._actor.call.remote(method, *args), method, deadline_s, awaiting)

    async def ping(self, deadline_s: float) -> Any:
        """Ask for a sign of life; see `MemberSpec.own_pulse`."""
        call = self._actor.call.options(concurrency_group=PULSE) if self._own_pulse else self._actor.call
        return await self._answer(call.remote("ping"), "ping", deadline_s, "heartbeat")

    def ref(self, method: str, *args: Any) -> Any:
        return self._actor.call.remote(method, *args)

    def kill(self) -> None:
        """End the process at once; Ray does not restart it."""
        ray.kill(self._actor)

    async def close(self, deadline_s: float) -> None:
        with contextlib.suppress(RunError):  # it may hang, or be gone already
            await self.call("close", deadline_s=deadline_s, awaiting="its end")
        self.kill()

    async def _answer(self, reference: Any, method: str, deadline_s: float, awaiting: str) -> Any:
        if self._exit is None and self._process is not None:
            self._exit = ExitWatch(self._process)
        try:
            async with asyncio.timeout(deadline_s):
                return await asyncio.wrap_future(reference.future())
        except (TimeoutError, GetTimeoutError) as error:
            raise DeadlineExceeded(f"{self.name}.{method}: no {awaiting} within {deadline_s:g} s") from error
        except RayTaskError as error:
            raise _cause(error, f"{self.name}.{method}") from error
        except RayActorError as error:
            told = await self._exit.told() if self._exit else ""
            what = f"{_death(error)}, {told}" if told else _death(error)
            raise MemberLost(f"{self.name} is gone during {method}: {what}") from error
        except ObjectLostError as error:  # its node is gone, and what it had answered lay there
            raise MemberLost(f"{self.name} is gone with what {method} gave: {first_line(error)}") from error


def _send_tables_as_ipc() -> None:
    """Have this process send Arrow tables as IPC bytes: Ray's own way costs milliseconds, one part per column."""
    ray.util.register_serializer(pa.Table, serializer=to_ipc, deserializer=from_ipc)


def _cause(error: RayTaskError, call: str) -> RunError:
    """Return the exception that the method raised; one that is not ours with its last lines."""
    if isinstance(error.cause, RunError):
        return error.cause
    if isinstance(error.cause, RayActorError):  # the owner of an argument that was still on its way
        owner = re.search(r"class_name: (\S+)", str(error.cause))
        return MemberLost(f"{owner[1] if owner else 'a member'} is gone with what {call} needs: {_death(error.cause)}")
    return RunError(f"{type(error.cause).__name__}: {error.cause}\n{str(error).strip()}")


def _death(error: RayActorError) -> str:
    """Return what Ray knows of the end of a process: its first line, the process id, the type of exit."""
    text = str(error)
    pid, exit = re.search(r"pid: \d+", text), re.search(r"Worker exit type: .*?(?= Some common causes|$)", text, re.M)
    return ", ".join([first_line(error), *(found.group() for found in (pid, exit) if found)])


def first_line(error: Exception) -> str:
    """Return the first line of an error's message; Ray adds pages."""
    return str(error).strip().split("\n")[0]


def spawn(spec: MemberSpec, name: str, where: Any = "DEFAULT") -> RayHandle:
    """Start the process of a member, by a scheduling strategy of Ray; `RayHandle.build` waits for it."""
    options: dict[str, Any] = {
        "num_cpus": spec.num_cpus,
        "num_gpus": spec.num_gpus,
        "resources": spec.placement.resources,
        "scheduling_strategy": where,
        "max_restarts": 0,  # the supervisor restarts, under a new name
        "max_concurrency": 256,
        # The GCS would keep the last 100,000 calls: 300 MB within the hour. `timeline` tells what was done.
        "enable_task_events": False,
    }
    if spec.registered_as:
        options["name"] = spec.registered_as
    if spec.environment:
        options["runtime_env"] = {"env_vars": spec.environment}
    titled = type(spec.pool, (Member,), {})  # ps, the dashboard and Ray's logs name a process by its class
    member = ray.remote(concurrency_groups={PULSE: 1})(titled) if spec.own_pulse else ray.remote(titled)
    return RayHandle(name, member.options(**options).remote(spec.factory), spec.own_pulse)


def find(registered_as: str) -> RayHandle:
    """Return the member registered under a name.

    Raises:
      DataError: there is none in this namespace.
    """
    try:
        return RayHandle(registered_as, ray.get_actor(registered_as))
    except ValueError as error:
        raise DataError(f"no run answers as {registered_as!r}; it has ended, or runs on another cluster") from error


def connect(cluster: ClusterConfig, namespace: str) -> str:
    """Start or join Ray; return the address of the cluster.

    Raises:
      DataError: the address does not answer.
      RunError: a local cluster did not come up.
    """
    options: dict[str, Any] = {"namespace": namespace, "log_to_driver": False, "logging_level": "error"}
    if cluster.address is None:
        options["address"] = "local"  # without it Ray joins whatever cluster it finds on this host
        options["num_cpus"] = local_cpus(cluster)
        options["include_dashboard"] = False
        options["object_store_memory"] = cluster.object_store_bytes
    else:
        options["address"] = cluster.address
    _stay_on_this_host(cluster.address is None or cluster.address.startswith(LOOPBACK))
    try:
        context = ray.init(**options)
        _send_tables_as_ipc()
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise DataError(f"cluster.address {cluster.address!r} does not answer: {first_line(error)}") from error
    except Exception as error:
        if type(error) is not Exception:  # Ray raises bare ones where its own processes do not come up in time
            raise
        raise RunError(f"Ray did not start: {first_line(error)} Is the machine overloaded? Start again") from error
    return str(context.address_info["gcs_address"])


def _stay_on_this_host(wanted: bool) -> None:
    """Have all processes of a cluster listen on the loopback address alone, or find them there.

    Ray does so on Macs by itself; elsewhere a cluster of one host would be open to the network.
    """
    ray_constants.ENABLE_RAY_CLUSTER = HAS_CLUSTERS and not wanted


def local_cpus(cluster: ClusterConfig) -> int:
    """Return the CPUs that a cluster which `connect` starts pretends to have; pools may share processors."""
    return cluster.num_cpus or max(8, os.cpu_count() or 1)


def metrics_address() -> str:
    """Return where Prometheus finds the metrics of this node."""
    return ray_metrics.metrics_address()


def sinks(run: str) -> list[Sink]:
    """Return where the metrics of a run go, beside its files."""
    return [ray_metrics.RayGauges(run)]


def store_figures() -> Callable[[], Awaitable[Mapping[str, float]]]:
    """Return what tells the metrics of Ray's object stores; picklable."""
    return ray_metrics.StoreMeter()


async def end(supervisor: RayHandle) -> None:
    """End all members of a run and leave Ray; a cluster that `connect` started ends."""
    # It may be gone already, and its members with it.
    with contextlib.suppress(RunError):
        await supervisor.call("close", deadline_s=CLOSE_DEADLINE_S, awaiting="the end of all members")
    leave()


def leave() -> None:
    """Leave Ray; a cluster that `connect` started ends."""
    ray.shutdown()
