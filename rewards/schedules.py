"""Weights over training: pure functions of the update that consumes a batch.

All samples of a batch have one weight, however old they are, so that no baseline compares two of them.
`weight: 0.5` is constant; `weight: {target: linear, start: 1.0, end: 0.0, updates: 200}` is not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from configs.errors import ConfigError
from configs.registry import construct

__all__ = ["SCHEDULES", "Constant", "Cosine", "Linear", "Schedule", "Step", "build_schedule"]

SCHEDULES = {
    "cosine": "rewards.schedules:Cosine",
    "linear": "rewards.schedules:Linear",
    "step": "rewards.schedules:Step",
}

Schedule = Callable[[int], float]
"""consuming version -> weight"""


@dataclass(frozen=True)
class Constant:
    """The same weight at all times."""

    value: float

    def __call__(self, version: int) -> float:
        return self.value


@dataclass(frozen=True, kw_only=True)
class Linear:
    """From `start` at update `first` in a straight line to `end`, `updates` later; constant before and after."""

    start: float
    end: float
    updates: int
    first: int = 0

    def __post_init__(self) -> None:
        if self.updates < 1:
            raise ValueError(f"updates is {self.updates}; it must be >= 1; give the length of the change")

    def __call__(self, version: int) -> float:
        return self.start + (self.end - self.start) * self.progress(version)

    def progress(self, version: int) -> float:
        """Return the share of the change that is behind, in [0, 1]."""
        return min(max((version - self.first) / self.updates, 0.0), 1.0)


@dataclass(frozen=True, kw_only=True)
class Cosine(Linear):
    """From `start` at update `first` along half a cosine wave to `end`, `updates` later; constant before and after."""

    def __call__(self, version: int) -> float:
        # Exact at both ends, where cos is exactly 1 and -1.
        return self.end + (self.start - self.end) * (1 + math.cos(math.pi * self.progress(version))) / 2


@dataclass(frozen=True, kw_only=True)
class Step:
    """`start` up to update `first`, and `end` from then on."""

    start: float
    end: float
    first: int

    def __call__(self, version: int) -> float:
        return self.start if version < self.first else self.end


def build_schedule(weight: object, where: str) -> Schedule:
    """Return the schedule of a `weight` key.

    Raises:
      ConfigError: it is neither a finite number nor a schedule.
    """
    if isinstance(weight, str | Mapping):
        return cast(Schedule, construct(SCHEDULES, cast(Any, weight), where))
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not math.isfinite(weight):
        remedy = "for example 0.5 or {target: linear, start: 1.0, end: 0.0, updates: 200}"
        raise ConfigError(f"{where} is {weight!r}; it must be a finite number or a schedule; {remedy}")
    return Constant(float(weight))
