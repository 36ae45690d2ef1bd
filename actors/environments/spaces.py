"""Gymnasium spaces in the words of `EnvironmentSpec`, and rows of numbers as the actions an environment takes.

Dimensions: L places, A action columns.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from buffers.environment_spec import ActionSpec, ArraySpec
from configs.errors import ConfigError, nearest

__all__ = ["SOLE", "Decode", "action_decoder", "action_spec", "observation_specs"]

Decode = Callable[[NDArray[np.float32]], NDArray[Any]]
"""[L, A] -> L actions, [L] for discrete ones"""
SOLE = "observation"
"""Name of an observation that is one array."""
NUMERIC = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)


def observation_specs(space: spaces.Space[Any], keys: Collection[str] | None, where: str) -> dict[str, ArraySpec]:
    """Return name -> array of what is kept of an observation: `keys`, or every numeric part.

    Raises:
      ConfigError: a key does not exist or is not numeric, or nothing is.
    """
    parts = dict(space.spaces) if isinstance(space, spaces.Dict) else {SOLE: space}
    numeric = {name: part for name, part in parts.items() if isinstance(part, NUMERIC)}
    for key in keys or ():
        if key not in numeric:
            raise ConfigError(f"{where}.keys has {key!r}, which is no array of this environment{nearest(key, numeric)}")
    if not numeric:
        raise ConfigError(f"{where}: observations are {space}; arrays and one level of Dict are supported; wrap it")
    return {name: _array(numeric[name]) for name in keys or numeric}


def _array(space: spaces.Space[Any]) -> ArraySpec:
    # Networks compute in float32: a wider float would only cost bytes.
    dtype = np.dtype(np.float32) if space.dtype == np.float64 else space.dtype
    return ArraySpec(tuple(space.shape or ()), str(dtype))


def action_spec(space: spaces.Space[Any], where: str) -> ActionSpec:
    """Return the columns of an action space.

    Raises:
      ConfigError: it is none of Discrete, MultiDiscrete and Box.
    """
    if isinstance(space, spaces.Discrete):
        return ActionSpec("discrete", (int(space.n),))
    if isinstance(space, spaces.MultiDiscrete):
        return ActionSpec("multi_discrete", tuple(space.nvec.ravel().tolist()))
    if isinstance(space, spaces.Box):
        return ActionSpec("continuous", (), tuple(space.low.ravel().tolist()), tuple(space.high.ravel().tolist()))
    raise ConfigError(f"{where}: actions are {space}; Discrete, MultiDiscrete and Box are supported; wrap it")


def action_decoder(space: spaces.Space[Any]) -> Decode:
    """Return what turns columns of float32 into actions of a supported space."""
    if isinstance(space, spaces.Discrete):
        return partial(_integers, int(space.start))
    if isinstance(space, spaces.MultiDiscrete):
        return partial(_rows_of_integers, space.start, space.nvec.shape)
    assert isinstance(space, spaces.Box)  # `action_spec` refused the others
    return partial(_clipped, space)


def _integers(start: int, actions: NDArray[np.float32]) -> NDArray[np.int64]:
    return actions[:, 0].astype(np.int64) + start


def _rows_of_integers(start: NDArray[np.int64], shape: tuple[int, ...], actions: NDArray[np.float32]) -> NDArray[Any]:
    return actions.astype(np.int64).reshape(-1, *shape) + start


def _clipped(space: spaces.Box, actions: NDArray[np.float32]) -> NDArray[Any]:
    return actions.reshape(-1, *space.shape).clip(space.low, space.high).astype(space.dtype)
