"""How the values of components become one total: pure functions of values and weights.

To add one: a frozen dataclass like those below, and a line in `rewards.COMBINES`. A value that is not
there (its component is invalid and ignored, or is asked later) is in neither mapping.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

__all__ = ["Minimum", "Product", "Rule", "WeightedSum"]

Rule = Callable[[Mapping[str, float], Mapping[str, float]], float]
"""(values by component, weights by component) -> total in reward units"""


@dataclass(frozen=True, kw_only=True)
class WeightedSum:
    """Sum of weight times value.

    Source: scalarisation as in multi-objective RL, arXiv:2103.09568.
    """

    def __call__(self, values: Mapping[str, float], weights: Mapping[str, float]) -> float:
        total = 0.0  # a plain loop: `sum` rounds differently from one version of Python to the next
        for name, value in values.items():
            total += weights[name] * value
        return total


@dataclass(frozen=True, kw_only=True)
class Product:
    """Product of 1 + weight (value - 1): the value itself at weight 1, no influence at weight 0.

    Source: this project; a conjunction of rewards in [0, 1] whose parts can be faded in.
    """

    def __call__(self, values: Mapping[str, float], weights: Mapping[str, float]) -> float:
        return math.prod(1 + weights[name] * (value - 1) for name, value in values.items())


@dataclass(frozen=True, kw_only=True)
class Minimum:
    """Smallest weight times value; a component of weight 0 is left out.

    Source: the egalitarian scalarisation of multi-objective RL, arXiv:2103.09568.
    """

    def __call__(self, values: Mapping[str, float], weights: Mapping[str, float]) -> float:
        return min((weights[name] * value for name, value in values.items() if weights[name]), default=0.0)
