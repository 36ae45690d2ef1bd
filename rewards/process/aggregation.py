"""From the scores of K steps to one value of the whole; each takes at least one score."""

from __future__ import annotations

import math
from collections.abc import Sequence

__all__ = ["last", "mean", "minimum", "product", "total"]


def minimum(scores: Sequence[float]) -> float:
    """Return the worst step's score. Source: arXiv:2305.20050 sec. 2.6, and arXiv:2504.15275."""
    return min(scores)


def product(scores: Sequence[float]) -> float:
    """Return the product: the probability that all steps are right. Source: arXiv:2305.20050 sec. 2.6."""
    return math.prod(scores)


def last(scores: Sequence[float]) -> float:
    """Return the last step's score, which has seen all before it. Source: arXiv:2408.03314 appendix E."""
    return scores[-1]


def mean(scores: Sequence[float]) -> float:
    """Return the mean: longer answers gain nothing, and one bad step hides. Source: arXiv:2509.03403 eq. 3."""
    return math.fsum(scores) / len(scores)


def total(scores: Sequence[float]) -> float:
    """Return the sum, which pays for every further step: policies learn to repeat themselves."""
    return math.fsum(scores)
