"""Language models that a run serves itself: pools of actors, reached by their handles and through no network port."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from buffers.scores import ScoreStatus
from buffers.transport import Handle, HandleSet
from configs.errors import ConfigError, DeadlineExceeded, MemberLost, RunError, nearest
from rewards.answers import Failure
from rewards.endpoints.routes import Reply, Routes

__all__ = [
    "NO_MODELS",
    "PREFIX",
    "ModelServer",
    "Models",
    "model_pool",
    "model_routes",
    "model_sets",
    "models_asked",
]

PREFIX = "model."
Models = Mapping[str, HandleSet]
"""The members of each pool of `rewards.models`, by its name; the supervisor's word keeps them up to date."""
NO_MODELS: Models = {}


class ModelServer:
    """One member of a pool; it answers as an OpenAI-compatible endpoint does."""

    def __init__(self, handle: Handle, path: str, members: HandleSet) -> None:
        self.name = handle.name
        self._handle, self._path, self._members = handle, path, members

    async def send(self, body: dict[str, Any], deadline_s: float) -> Reply:
        """Return the member's reply; a member that died is detached at once, for all who ask here.

        Raises:
          MemberLost: it died; it may or may not have answered.
        """
        awaiting = f"answer of {self._path}"
        try:
            status, answer = await self._handle.call(
                "complete", self._path, body, deadline_s, deadline_s=deadline_s, awaiting=awaiting
            )
        except MemberLost:
            self._members.detach(self.name)
            raise
        except DeadlineExceeded as error:
            return Reply(Failure(ScoreStatus.TIMEOUT, str(error)), sound=False)
        except RunError as error:
            return Reply(Failure(ScoreStatus.ERROR, f"{self.name}: {error}"[:500]), sound=False)
        if status != 200:
            final = status < 500
            return Reply(Failure(ScoreStatus.ERROR, f"{self.name}: status {status}: {answer!r:.300}", final), final)
        return Reply(answer)

    async def close(self) -> None:
        """Nothing is held."""


def model_sets(names: Iterable[str]) -> dict[str, HandleSet]:
    """Return a set for the members of each pool of `rewards.models`, still empty."""
    return {name: HandleSet(model_pool(name)) for name in names}


def model_routes(routes: Routes, pool: str, path: str, models: Models, where: str) -> Routes:
    """Return routes that follow the members of a pool.

    Args:
      path: of an OpenAI-compatible server, such as /chat/completions.

    Raises:
      ConfigError: the run has no such pool.
    """
    if pool not in models:
        raise ConfigError(f"{where} is {pool!r}; it must be a name of rewards.models{nearest(pool, models)}")
    members = models[pool]

    def follow() -> None:
        for name in routes.names():
            if name not in members:
                routes.leave(name)
        for handle in members:
            routes.join(ModelServer(handle, path, members))

    members.on_change(follow)
    follow()
    return routes


def model_pool(name: str) -> str:
    """Return what the supervisor calls a pool of `rewards.models`."""
    return PREFIX + name


def models_asked(section: Any) -> Iterator[str]:
    """Yield the pools that a component's section names, however deep: `model_pool: NAME`."""
    if isinstance(section, Mapping):
        for key, value in section.items():
            yield from [value] if key == "model_pool" and value else models_asked(value)
    elif isinstance(section, list | tuple):
        for value in section:
            yield from models_asked(value)
