"""EnvPool's environments: C++ threads step them while this process does something else.

Dimensions: L places of one call, G places of one pool, A action columns.

    reset(place, seed)   notes the seed; places that begin together become one pool, each half its own
    send, recv           half a steps in its pool's threads while the policy looks at half b

EnvPool seeds an environment once, when it is built: a seed given to `reset` begins the same sequence of episodes,
and the seeds given to `send` are not used; so a lane that moves, or is resumed, begins a fresh episode. Its own reset
takes a step; here that step is taken at once, so that no step of a lane is without a decision. An episode that ends
by itself on its last allowed step is said to be truncated. A step in C++ cannot be given up: a worker in which one
hangs is replaced, see `actors.step_watch`.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import envpool
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from actors.environments.base import Captioner, Steps
from actors.environments.captions import InfoCaptions
from actors.environments.gymnasium_instance import unknown_id
from actors.environments.spaces import SOLE, action_decoder, action_spec, observation_specs
from buffers.environment_spec import EnvironmentSpec, Observations
from configs.errors import ConfigError, RunError

__all__ = ["EnvPoolLanes"]

WHERE = "environment.backend"
SEEDS = 2**31
"""EnvPool's seeds are below this."""
Places = NDArray[np.int64]
Groups = list[tuple[Any, NDArray[np.int64] | slice]]
"""Every pool concerned, and which rows of `places` are in it; a pool answers in the order that it was asked."""


class EnvPoolLanes:
    """EnvPool's C++ environments by id; with `environment.halves: 2` they step while the policy looks."""

    def __init__(
        self,
        *,
        id: str,
        size: int,
        halves: int = 1,
        num_threads: int = 1,
        keys: Sequence[str] | None = None,
        options: Mapping[str, Any] | None = None,
        captioner: Captioner | None = None,
    ) -> None:
        """Ask for the spaces; environments are built when their places have begun.

        Args:
          id: see `envpool.list_all_envs()`.
          num_threads: of each pool.
          keys: which parts of a Dict observation to keep; None: every numeric one.
          options: further arguments of `envpool.make`.
        """
        if isinstance(captioner, InfoCaptions):
            raise ConfigError("environment.captions.target is 'info', but EnvPool's games say nothing; use another")
        self._id, self._options = id, {"num_threads": num_threads, **(options or {})}
        observed, acted = _spaces(id, self._options)
        self.spec = EnvironmentSpec(id, observation_specs(observed, keys, WHERE), action_spec(acted, WHERE))
        self.size, self.has_captions, self.repeats = size, captioner is not None, False
        self._observations = self.spec.empty(size)
        self._sole = not isinstance(observed, spaces.Dict)
        self._tells_mission = captioner is not None and "mission" in getattr(observed, "spaces", ())
        self._missions = [""] * size
        self._decode, self._captioner, self._halves = action_decoder(acted), captioner, halves
        self._pools: list[Any] = []
        self._pool_of, self._index = np.full(size, -1), np.zeros(size, np.int32)
        self._pending: dict[int, int] = {}
        self._sent: dict[int, tuple[Places, NDArray[np.float32], Groups]] = {}

    @property
    def observations(self) -> Observations:
        """See `Lanes.observations`; builds what has begun since."""
        if self._pending:
            self._build()
        return self._observations

    def reset(self, place: int, seed: int) -> None:
        """See `Lanes.reset`; an environment of its own takes the place of one that is there."""
        self._pending[place] = seed % SEEDS

    def send(self, places: Places, actions: NDArray[np.float32], seeds: Sequence[int]) -> None:
        """See `Lanes.send`; `seeds` are not used."""
        if self._pending:
            self._build()
        groups, taken = self._groups(places), self._decode(actions)
        for pool, rows in groups:
            pool.send(taken[rows], env_id=self._index[places[rows]])
        self._sent[int(places[0])] = places, actions, groups

    def recv(self, places: Places) -> Steps:
        """See `Lanes.recv`."""
        sent, actions, groups = self._sent.pop(int(places[0]))
        assert sent is places or np.array_equal(sent, places), "recv asks for the places of one send"
        before = self._look(places) if self._captioner else {}
        steps = self._collect(places, groups)
        ended = steps.terminated | steps.truncated
        if self._captioner:
            infos = [{"mission": self._missions[place]} for place in places.tolist()]
            steps.captions = self._captioner(before, actions, self._look(places), ended, infos)
        if ended.any():
            for i in np.flatnonzero(steps.truncated).tolist():
                steps.finals[i] = {n: np.array(a[places[i]]) for n, a in self._observations.items()}
            self._begin_next(places[ended])
        return steps

    def under_way(self) -> str:
        """See `Lanes.under_way`; EnvPool does not say which."""
        return f"one of its {self.size} places"

    def close(self) -> None:
        """See `Lanes.close`."""
        for pool in self._pools:
            pool.close()

    def _collect(self, places: Places, groups: Groups) -> Steps:
        rewards = np.empty(len(places), np.float32)
        terminated, truncated = np.empty(len(places), np.bool_), np.empty(len(places), np.bool_)
        for pool, rows in groups:
            observation, rewards[rows], terminated[rows], truncated[rows], _ = pool.recv()
            self._write(places[rows], observation)
        return Steps(rewards=rewards, terminated=terminated, truncated=truncated)

    def _begin_next(self, ended: Places) -> None:
        """Take the step that EnvPool spends on a reset; its action is ignored."""
        groups = self._groups(ended)
        idle = self._decode(np.zeros((len(ended), self.spec.actions.columns), np.float32))
        for pool, rows in groups:
            pool.send(idle[rows], env_id=self._index[ended[rows]])
        for pool, rows in groups:
            observation, *_ = pool.recv()
            self._write(ended[rows], observation, begins=True)

    def _build(self) -> None:
        """Build the pools of all places that have begun."""
        for half in range(self._halves):
            places = np.array([place for place in self._pending if place % self._halves == half], np.int64)
            if len(places):
                self._begin_pool(places, [self._pending[place] for place in places.tolist()])
        self._pending.clear()

    def _begin_pool(self, places: Places, seeds: list[int]) -> None:
        pool = _make(self._id, {**self._options, "num_envs": len(places), "env_seed": seeds})
        self._pool_of[places], self._index[places] = len(self._pools), np.arange(len(places))
        self._pools.append(pool)
        observation, _ = pool.reset()
        self._write(places, observation, begins=True)

    def _groups(self, places: Places) -> Groups:
        pools = self._pool_of[places]
        if pools.min() < 0:
            raise RunError(f"{self._id}: place {places[pools.argmin()]} steps before it was reset")
        if (pools == pools[0]).all():
            return [(self._pools[pools[0]], slice(None))]
        return [(self._pools[number], np.flatnonzero(pools == number)) for number in np.unique(pools).tolist()]

    def _write(self, places: Places, observation: Any, begins: bool = False) -> None:
        parts = {SOLE: observation} if self._sole else observation
        for name, array in self._observations.items():
            array[places] = parts[name]
        if begins and self._tells_mission:
            for place, line in zip(places.tolist(), parts["mission"], strict=True):
                self._missions[place] = line.tobytes().rstrip(b"\0").decode()

    def _look(self, places: Places) -> Observations:
        return {name: array[places] for name, array in self._observations.items()}


def _spaces(id: str, options: Mapping[str, Any]) -> tuple[spaces.Space[Any], spaces.Space[Any]]:
    """Return the spaces of observations and actions."""
    if id not in (known := envpool.list_all_envs()):
        raise unknown_id(id, id, known)
    pool = _make(id, {**options, "num_envs": 1})
    try:
        return pool.observation_space, pool.action_space
    finally:
        pool.close()


def _make(id: str, options: Mapping[str, Any]) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of Gymnasium, on the precision of EnvPool's own bounds
        try:
            pool = envpool.make(id, env_type="gymnasium", **options)
            pool.observation_space, pool.action_space  # noqa: B018  made on first use, where they would warn
        except (TypeError, ValueError, AssertionError) as error:
            raise ConfigError(f"{WHERE}: {id} cannot be made with options {dict(options)}: {error}") from error
        return pool
