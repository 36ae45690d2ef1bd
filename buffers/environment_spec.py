"""What an environment shows and takes, in words that every process understands.

    EnvironmentSpec
      observations   name -> shape and dtype, in a fixed order
      actions        discrete | multi_discrete | continuous, as A columns of float32

Observations travel as bytes: for each name in order, its array of all steps, C order.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64_hexdigest

from configs.errors import DataError

__all__ = ["ActionSpec", "ArraySpec", "EnvironmentSpec", "Observations"]

Observations = dict[str, NDArray[Any]]
"""name -> [..., *shape]"""


@dataclass(frozen=True, slots=True)
class ArraySpec:
    """One observation without its leading dimensions."""

    shape: tuple[int, ...]
    dtype: str
    """NumPy's name, for example uint8."""


@dataclass(frozen=True, slots=True)
class ActionSpec:
    """Actions as columns of float32, which hold integers up to 2^24 exactly."""

    kind: str
    """discrete | multi_discrete | continuous"""
    sizes: tuple[int, ...]
    """Choices of each column; (n,) for discrete; empty for continuous."""
    low: tuple[float, ...] = ()
    """Of each continuous column; the environment is given actions clipped to [low, high]."""
    high: tuple[float, ...] = ()

    @property
    def columns(self) -> int:
        """A: numbers of one action."""
        return len(self.sizes) or len(self.low)


@dataclass(frozen=True)
class EnvironmentSpec:
    """Observations and actions of one environment."""

    name: str
    """First part of every slot identity, for example CartPole-v1."""
    observations: Mapping[str, ArraySpec]
    actions: ActionSpec

    def empty(self, *leading: int) -> Observations:
        """Return zeros [*leading, *shape] of every observation."""
        return {n: np.zeros((*leading, *s.shape), s.dtype) for n, s in self.observations.items()}

    def encode(self, observations: Mapping[str, NDArray[Any]]) -> bytes:
        """Return the bytes of arrays [T, *shape]."""
        return b"".join(np.ascontiguousarray(observations[n], s.dtype).tobytes() for n, s in self.observations.items())

    def digest(self, observations: Mapping[str, NDArray[Any]]) -> str:
        """Return 16 hex digits of arrays [*shape]: what tells whether two environments show the same."""
        return xxh3_64_hexdigest(self.encode(observations))

    def decode(self, data: bytes | memoryview, steps: int) -> Observations:
        """Return read-only views [steps, *shape] of what `encode` made.

        Raises:
          DataError: there are more or fewer bytes than `steps` of this environment take.
        """
        whole, at, views = np.frombuffer(data, np.uint8), 0, {}
        if len(whole) != steps * self.step_bytes:
            raise DataError(
                f"observations of {self.name} hold {len(whole)} bytes; {steps} steps take {steps * self.step_bytes}; "
                "the run was recorded with another environment"
            )
        for name, spec in self.observations.items():
            size = steps * array_bytes(spec)
            views[name] = whole[at : at + size].view(spec.dtype).reshape(steps, *spec.shape)
            at += size
        return views

    @property
    def step_bytes(self) -> int:
        return sum(array_bytes(spec) for spec in self.observations.values())

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> EnvironmentSpec:
        """Inverse of `to_json`."""
        data = json.loads(text)
        arrays = {n: ArraySpec(tuple(s["shape"]), s["dtype"]) for n, s in data["observations"].items()}
        kind, *numbers = (data["actions"][k] for k in ("kind", "sizes", "low", "high"))
        return cls(data["name"], arrays, ActionSpec(kind, *map(tuple, numbers)))


@cache
def array_bytes(spec: ArraySpec) -> int:
    """Return the bytes of one step."""
    return int(np.prod(spec.shape, dtype=np.int64)) * np.dtype(spec.dtype).itemsize
