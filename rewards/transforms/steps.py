"""Transforms of all step rewards of a score together; its value stays as it is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace

from buffers.scores import Score
from rewards.process.shaping import clip, delta, soft_minimum

__all__ = ["StepClip", "StepDelta", "StepMinimum"]


class Stepwise(ABC):
    """Base of transforms of [K] step rewards into as many."""

    @abstractmethod
    def steps(self, values: Sequence[float]) -> list[float]:
        """Return what becomes of the steps of one score, in reward units."""

    def __call__(self, score: Score) -> Score:
        """Return the score with its span values transformed."""
        return replace(score, span_values=tuple(self.steps(score.span_values)))


@dataclass(frozen=True, kw_only=True)
class StepClip(Stepwise):
    """A good step earns nothing, a bad one what it lacks; see `rewards.process.shaping.clip`."""

    threshold: float

    def steps(self, values: Sequence[float]) -> list[float]:
        return clip(values, self.threshold)


@dataclass(frozen=True, kw_only=True)
class StepDelta(Stepwise):
    """What a step is better than the one behind it; see `rewards.process.shaping.delta`."""

    def steps(self, values: Sequence[float]) -> list[float]:
        return delta(values)


@dataclass(frozen=True, kw_only=True)
class StepMinimum(Stepwise):
    """Nearly all credit to the worst step; see `rewards.process.shaping.soft_minimum`."""

    temperature: float = 0.1

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ValueError(f"temperature is {self.temperature}; it must be > 0; 0.1 is usual")

    def steps(self, values: Sequence[float]) -> list[float]:
        return soft_minimum(values, self.temperature)
