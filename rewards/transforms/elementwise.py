"""Transforms of each number of a score by itself: its value, its vector and its span values."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace

from buffers.scores import Score

__all__ = ["Clip", "Elementwise", "Log", "Power", "Scale", "Threshold"]


class Elementwise(ABC):
    """Base of transforms that are a function of one number."""

    @abstractmethod
    def number(self, x: float) -> float:
        """Return what becomes of one number of a score, in reward units."""

    def __call__(self, score: Score) -> Score:
        """Return the score with all its numbers transformed; one without a value stays as it is."""
        return replace(
            score,
            value=None if score.value is None else self.number(score.value),
            vector=tuple(map(self.number, score.vector)),
            span_values=tuple(map(self.number, score.span_values)),
        )


@dataclass(frozen=True, kw_only=True)
class Clip(Elementwise):
    """At least `low` and at most `high`; a bound that is left out does not bind."""

    low: float = -math.inf
    high: float = math.inf

    def __post_init__(self) -> None:
        if not self.low <= self.high:
            raise ValueError(f"low is {self.low}; it must be <= high={self.high}; swap them")

    def number(self, x: float) -> float:
        return min(max(x, self.low), self.high)


@dataclass(frozen=True, kw_only=True)
class Scale(Elementwise):
    """`factor` x + `shift`; a factor of -1 turns a cost into a reward."""

    factor: float = 1.0
    shift: float = 0.0

    def number(self, x: float) -> float:
        return self.factor * x + self.shift


@dataclass(frozen=True, kw_only=True)
class Threshold(Elementwise):
    """`high` where x is more than `above`, else `low`."""

    above: float
    low: float = 0.0
    high: float = 1.0

    def number(self, x: float) -> float:
        return self.high if x > self.above else self.low


@dataclass(frozen=True, kw_only=True)
class Power(Elementwise):
    """sign(x) |x| to the power of `exponent`, so that order and sign stay."""

    exponent: float

    def __post_init__(self) -> None:
        if not self.exponent > 0:
            raise ValueError(f"exponent is {self.exponent}; it must be > 0; 0.5 takes roots, 2 squares")

    def number(self, x: float) -> float:
        return math.copysign(abs(x) ** self.exponent, x)


@dataclass(frozen=True, kw_only=True)
class Log(Elementwise):
    """sign(x) log(1 + |x| / scale), so that order and sign stay; about x / scale near 0."""

    scale: float = 1.0
    """Reward units, around which the logarithm sets in."""

    def __post_init__(self) -> None:
        if not self.scale > 0:
            raise ValueError(f"scale is {self.scale}; it must be > 0; 1 suits rewards of a few units")

    def number(self, x: float) -> float:
        return math.copysign(math.log1p(abs(x) / self.scale), x)
