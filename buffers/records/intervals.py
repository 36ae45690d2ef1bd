"""Means of a few runs, and how far the mean of other seeds may lie from them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Interval", "interval", "spread", "student_t"]

Floats = NDArray[np.float64]

# The 97.5 % quantile of Student's t with 1, 2, ... degrees of freedom.
T975 = (12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622)
Z975 = 1.959964


class Interval(NamedTuple):
    """A 95 % interval `mean` +- `half` of the mean of n values."""

    mean: float
    half: float | None
    """None for a single value."""
    n: int


def student_t(freedom: int) -> float:
    """Return the 97.5 % quantile of Student's t, to three decimals.

    Source: a table below 10 degrees of freedom, the Cornish-Fisher expansion (Abramowitz and Stegun 26.7.5) above.
    """
    if freedom <= len(T975):
        return T975[freedom - 1]
    z = Z975
    terms = ((z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96, (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384)
    return z + sum(term / freedom**order for order, term in enumerate(terms, 1))


def interval(values: Sequence[float]) -> Interval:
    """Return mean and 95 % interval of independent values."""
    n = len(values)
    mean = math.fsum(values) / n
    return Interval(mean, None if n < 2 else float(spread(np.array(values)[:, None])[0]), n)


def spread(values: Floats) -> Floats:
    """Return half the width of the 95 % interval of the mean, by column.

    Args:
      values: [n, T] with n >= 2 independent rows.
    """
    n = len(values)
    half: Floats = student_t(n - 1) * values.std(axis=0, ddof=1) / math.sqrt(n)
    return half
