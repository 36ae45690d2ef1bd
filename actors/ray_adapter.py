"""Ray, behind the handle interface: the one place where actors are created, called and killed.

Every actor of a run is a `Member`: a thin shell around a plain object that a factory builds inside
the actor's own process. Ray's errors end here; callers see `MemberLost` and `DeadlineExceeded`.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import os
from typing import Any

# Ray reads these when it is imported. Local clusters demand the user's token, and whoever joins one by its
# address must say so; accelerators stay visible to actors without one; all processes have equal priority.
os.environ.setdefault("RAY_AUTH_MODE", "token")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
os.environ.setdefault("RAY_worker_niceness", "0")

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError

from actors.member import MemberSpec
from configs.errors import DataError, DeadlineExceeded, MemberLost, RunError
from configs.registry import Deferred
from configs.schema import ClusterConfig

__all__ = ["Member", "RayHandle", "connect", "end", "find", "leave", "spawn"]

CLOSE_DEADLINE_S = 30.0


class Member:
    """The shell: builds the plain object and delegates."""

    def __init__(self, factory: Deferred) -> None:
        self._factory = factory
        self._target: Any = None

    async def build(self) -> int:
        """Build the object; separate from the constructor so that its errors reach the caller. Returns the pid."""
        if self._target is None:
            built = self._factory()
            self._target = await built if inspect.isawaitable(built) else built
        return os.getpid()

    async def call(self, method: str, *args: Any) -> Any:
        result = getattr(self._target, method)(*args)
        return await result if inspect.isawaitable(result) else result


class RayHandle:
    """A handle to a `Member`; picklable, so pools can be handed around."""

    def __init__(self, name: str, actor: Any) -> None:
        self.name, self._actor = name, actor

    async def build(self, deadline_s: float) -> int:
        """Wait until the object behind the handle is built; return its process id."""
        pid: int = await self._answer(self._actor.build.remote(), "build", deadline_s, "its start")
        return pid

    async def call(self, method: str, *args: Any, deadline_s: float, awaiting: str) -> Any:
        return await self._answer(self._actor.call.remote(method, *args), method, deadline_s, awaiting)

    def ref(self, method: str, *args: Any) -> Any:
        return self._actor.call.remote(method, *args)

    def kill(self) -> None:
        """End the process at once; Ray does not restart it."""
        ray.kill(self._actor)

    async def _answer(self, reference: Any, method: str, deadline_s: float, awaiting: str) -> Any:
        try:
            async with asyncio.timeout(deadline_s):
                return await asyncio.wrap_future(reference.future())
        except (TimeoutError, GetTimeoutError) as error:
            raise DeadlineExceeded(f"{self.name}.{method}: no {awaiting} within {deadline_s:g} s") from error
        except RayTaskError as error:
            raise _cause(error) from error
        except RayActorError as error:
            raise MemberLost(f"{self.name} is gone during {method}: {_first_line(error)}") from error


def _cause(error: RayTaskError) -> RunError:
    """Return the exception that the method raised; one that is not ours with its last lines."""
    if isinstance(error.cause, RunError):
        return error.cause
    return RunError(f"{type(error.cause).__name__}: {error.cause}\n{str(error).strip()}")


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]


def spawn(spec: MemberSpec, name: str) -> RayHandle:
    """Start the process of a member; `RayHandle.build` waits for it."""
    options: dict[str, Any] = {
        "num_cpus": spec.num_cpus,
        "num_gpus": spec.num_gpus,
        "max_restarts": 0,  # the supervisor restarts, under a new name
        "max_concurrency": 256,
    }
    if spec.registered_as:
        options["name"] = spec.registered_as
    if spec.environment:
        options["runtime_env"] = {"env_vars": spec.environment}
    return RayHandle(name, ray.remote(Member).options(**options).remote(spec.factory))


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
    """
    options: dict[str, Any] = {"namespace": namespace, "log_to_driver": False, "logging_level": "error"}
    if cluster.address is None:
        options["num_cpus"] = cluster.num_cpus or max(8, os.cpu_count() or 1)
        options["include_dashboard"] = False
        options["object_store_memory"] = cluster.object_store_bytes
    else:
        options["address"] = cluster.address
    try:
        context = ray.init(**options)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise DataError(f"cluster.address {cluster.address!r} does not answer: {_first_line(error)}") from error
    return str(context.address_info["gcs_address"])


async def end(supervisor: RayHandle) -> None:
    """End all members of a run and leave Ray; a cluster that `connect` started ends."""
    # It may be gone already, and its members with it.
    with contextlib.suppress(RunError):
        await supervisor.call("close", deadline_s=CLOSE_DEADLINE_S, awaiting="the end of all members")
    leave()


def leave() -> None:
    """Leave Ray; a cluster that `connect` started ends."""
    ray.shutdown()
