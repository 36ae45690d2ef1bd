"""The contract of vectorised environments: places that step side by side inside one worker.

    lanes.reset(place, seed)                     begin a fresh episode
    lanes.send(places, actions, seeds)           let them step
    steps = lanes.recv(places)                   what came of it, in the order of `places`

An episode that ends is followed at once by a fresh one (same-step autoreset): `observations` then
holds its first observation, and what the ended one last showed is in `Steps.finals`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from buffers.environment_spec import EnvironmentSpec, Observations

__all__ = ["Captioner", "Lanes", "Steps"]


@dataclass(kw_only=True, slots=True)
class Steps:
    """One step of L places, in the order they were asked for."""

    rewards: NDArray[np.float32]
    """[L] NaN where the environment raised."""
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]
    """[L]"""
    captions: Sequence[str] = ()
    """L texts of what the step led to; empty without a captioner."""
    finals: dict[int, Observations] = field(default_factory=dict)
    """Index of a truncated place -> its last observation, [*shape] each."""
    successes: dict[int, bool] = field(default_factory=dict)
    """Index of an ended place -> whether the environment says it succeeded; only where it says so."""
    mask: NDArray[np.bool_] | None = None
    """[L] False where the backend only reset itself and the action was ignored; None: all stepped."""
    errors: dict[int, str] = field(default_factory=dict)
    """Index of a place whose environment raised -> what it said; the instance is replaced, `reset` comes next."""


class Lanes(Protocol):
    """Environments of one worker, at places 0 to size - 1."""

    spec: EnvironmentSpec
    size: int
    has_captions: bool
    repeats: bool
    """From the seed of an episode and its actions, an environment comes to where it was."""

    @property
    def observations(self) -> Observations:
        """[size, *shape] what each place shows now; written in place by `recv`. Ask anew after `reset`."""
        ...

    def reset(self, place: int, seed: int) -> None:
        """Begin a fresh episode at a place; the same seed begins the same episode.

        Raises:
          RunError: the environment cannot be built or reset.
        """
        ...

    def send(self, places: NDArray[np.int64], actions: NDArray[np.float32], seeds: Sequence[int]) -> None:
        """Let places step; returns at once where the backend steps by itself.

        Args:
          actions: [L, A], see `ActionSpec`.
          seeds: L seeds, each of the next episode should this one end now.
        """
        ...

    def recv(self, places: NDArray[np.int64]) -> Steps:
        """Return the outcome of the last `send` of exactly these places.

        A step that never ends never returns: see `actors.step_watch`.
        """
        ...

    def under_way(self) -> str:
        """Say at which place or places a call works now; another thread asks, when it takes too long."""
        ...

    def close(self) -> None:
        """Release processes and memory."""
        ...


class Captioner(Protocol):
    """Turns steps into text."""

    needs: frozenset[str]
    """Names of the observations it reads."""

    def __call__(
        self,
        before: Observations,
        actions: NDArray[np.float32],
        after: Observations,
        ended: NDArray[np.bool_],
        infos: Sequence[Mapping[str, Any]],
    ) -> list[str]:
        """Return L texts; "" says nothing.

        Args:
          before, after: [L, *shape] observations around the step; `after` of an ended episode is its last one.
          ended: [L] the episode ended with this step.
          infos: L of what the environment said beside, its texts (a mission) included.
        """
        ...
