"""Gymnasium environments of one worker, stepped one after the other in its process.

Dimensions: L places of one call, A action columns.

Environments run in this thread: one that hangs hangs its worker, which is replaced, see `actors.step_watch`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, TypeAlias

import gymnasium
import numpy as np
from numpy.typing import NDArray

from actors.environments.base import Captioner, Steps
from actors.environments.gymnasium_instance import make_instance
from actors.environments.spaces import SOLE, action_decoder, action_spec, observation_specs
from buffers.environment_spec import EnvironmentSpec, Observations
from configs.errors import RunError
from configs.registry import Section

__all__ = ["GymnasiumLanes"]

Instance: TypeAlias = "gymnasium.Env[Any, Any]"
WHERE = "environment.backend"


class GymnasiumLanes:
    """Any Gymnasium environment by id, stepped in this process."""

    def __init__(
        self,
        *,
        id: str,
        size: int,
        wrappers: Sequence[Section] = (),
        keys: Sequence[str] | None = None,
        options: Mapping[str, Any] | None = None,
        captioner: Captioner | None = None,
    ) -> None:
        """Build one instance to learn the spaces; the others follow when their places are reset.

        Args:
          id: of Gymnasium's registry, or "module:id" where an import registers it.
          wrappers: names or {target: "module:Class", argument: value}, the innermost first.
          keys: which parts of a Dict observation to keep; None: every numeric one.
          options: arguments of `gymnasium.make`.
        """
        self._make = partial(make_instance, id, options or {}, wrappers)
        self._spare: Instance | None = self._make()
        observed, acted = self._spare.observation_space, self._spare.action_space
        arrays = observation_specs(observed, keys, WHERE)
        self.spec = EnvironmentSpec(id, arrays, action_spec(acted, WHERE))
        self.size, self.has_captions, self.repeats = size, captioner is not None, True
        self.observations: Observations = self.spec.empty(size)
        self._parts = list(self.observations.items())
        parted = isinstance(observed, gymnasium.spaces.Dict)
        # The array's own method: a function of ours around it would cost more than the copy.
        self._write = self._write_parts if parted else self.observations[SOLE].__setitem__
        self._texts = [name for name in getattr(observed, "spaces", ()) if name not in arrays]
        self._decode, self._captioner = action_decoder(acted), captioner
        self._instances: dict[int, Instance] = {}
        self._calls: tuple[list[int], list[float]] = [0], []
        """Places that the present call steps one after the other, and what those that are done gave."""
        self._sent: dict[int, tuple[NDArray[np.int64], NDArray[np.float32], Sequence[int]]] = {}

    def reset(self, place: int, seed: int) -> None:
        """See `Lanes.reset`."""
        if place not in self._instances:
            self._instances[place], self._spare = self._spare or self._make(), None
        try:
            self._begin(place, seed)
        except Exception as error:
            self._drop(place)
            raise RunError(f"{self.spec.name} at place {place} cannot begin with seed {seed}: {error!r}") from error

    def send(self, places: NDArray[np.int64], actions: NDArray[np.float32], seeds: Sequence[int]) -> None:
        """See `Lanes.send`; the environments step in `recv`."""
        self._sent[int(places[0])] = places, actions, seeds

    def recv(self, places: NDArray[np.int64]) -> Steps:
        """See `Lanes.recv`.

        Raises:
          RunError: a place has not begun.
        """
        sent, actions, seeds = self._sent.pop(int(places[0]))
        assert sent is places or np.array_equal(sent, places), "recv asks for the places of one send"
        before = self._look(places) if self._captioner else {}
        steps, infos, ended = self._step(places.tolist(), self._decode(actions))
        if self._captioner:
            over = steps.terminated | steps.truncated
            steps.captions = self._captioner(before, actions, self._look(places), over, infos)
        for i in ended:
            self._end(steps, i, int(places[i]), infos[i], seeds[i])
        return steps

    def under_way(self) -> str:
        """See `Lanes.under_way`."""
        places, done = self._calls
        return f"place {places[min(len(done), len(places) - 1)]}"

    def close(self) -> None:
        """See `Lanes.close`."""
        for place in list(self._instances):
            self._drop(place)
        if self._spare:
            self._spare.close()

    def _step(self, places: list[int], actions: NDArray[Any]) -> tuple[Steps, list[Mapping[str, Any]], list[int]]:
        """Return the outcome, what was said beside, and the indices of ended episodes. The hot loop."""
        flags = np.zeros((2, len(places)), np.bool_)
        rewards: list[float] = []
        self._calls = places, rewards
        infos: list[Mapping[str, Any]] = []
        ended: list[int] = []
        errors: dict[int, str] = {}
        # Python's own integers index and compare faster than NumPy's.
        taken = actions.tolist() if actions.ndim == 1 else actions
        for i, (instance, action) in enumerate(zip(self._begun(places), taken, strict=True)):
            try:
                observation, reward, over, cut, info = instance.step(action)
                self._write(places[i], observation)
                if self._texts:
                    info = info | {name: observation[name] for name in self._texts}
            except Exception as error:
                errors[i] = self._fault(places[i], error)
                reward, over, cut, info = np.nan, False, False, {}  # a failed reward is never 0
            rewards.append(reward)
            infos.append(info)
            if over or cut:
                ended.append(i)
                flags[:, i] = over, not over  # out of time as well: it ended by itself
        outcome = np.array(rewards, np.float32)
        return Steps(rewards=outcome, terminated=flags[0], truncated=flags[1], errors=errors), infos, ended

    def _begun(self, places: list[int]) -> list[Instance]:
        try:
            return [self._instances[place] for place in places]
        except KeyError as error:
            raise RunError(f"{self.spec.name}: place {error} steps before it was reset") from None

    def _end(self, steps: Steps, i: int, place: int, info: Mapping[str, Any], seed: int) -> None:
        """Note what the ended episode leaves, then begin the next one."""
        if steps.truncated[i]:
            steps.finals[i] = {name: np.array(array[place]) for name, array in self.observations.items()}
        success = info.get("success", info.get("is_success"))
        if success is not None:
            steps.successes[i] = bool(success)
        try:
            self._begin(place, seed)
        except Exception as error:
            steps.errors[i] = self._fault(place, error)

    def _begin(self, place: int, seed: int) -> None:
        self._calls = [place], []
        observation, _ = self._instances[place].reset(seed=seed)
        self._write(place, observation)

    def _write_parts(self, place: int, observation: Any) -> None:
        for name, array in self._parts:
            array[place] = observation[name]

    def _look(self, places: NDArray[np.int64]) -> Observations:
        return {name: array[places] for name, array in self.observations.items()}

    def _fault(self, place: int, error: Exception) -> str:
        self._drop(place)
        return f"{self.spec.name} at place {place}: {error!r}"

    def _drop(self, place: int) -> None:
        instance = self._instances.pop(place)
        with contextlib.suppress(Exception):  # it is broken or unwanted: nothing it says matters any more
            instance.close()
