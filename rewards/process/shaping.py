"""Step scores that cannot be raised by adding steps. K steps, in order; all functions are pure.

The return of a step is the sum of the rewards from it on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

__all__ = ["clip", "delta", "soft_minimum"]


def clip(scores: Sequence[float], threshold: float) -> list[float]:
    """Return min(r_k - threshold, 0): a good step earns nothing, so more of them earn nothing either.

    Source: arXiv:2410.15115 sec. 4 (Clip); eta there is `threshold` here, for instance the mean step score.
    """
    return [min(score - threshold, 0.0) for score in scores]


def delta(scores: Sequence[float]) -> list[float]:
    """Return r_k - r_(k+1), for the last step but one its score, for the last one 0, which the outcome rewards.

    The return of each step but the last one is then its own score, however many steps follow.

    Source: arXiv:2410.15115 sec. 4 (Delta).
    """
    if len(scores) < 2:
        return [0.0] * len(scores)
    inner = [score - later for score, later in pairwise(scores[:-1])]
    return [*inner, scores[-2], 0.0]


def soft_minimum(scores: Sequence[float], temperature: float) -> list[float]:
    """Return w_k r_k with w = softmax(-r / temperature): nearly the whole sum is the worst step's score.

    The return is about min(r) up to the worst step, and about 0 behind it.

    Source: arXiv:2504.15275 sec. 3.2 (PURE; temperature 0.1 there).
    """
    if not scores:
        return []
    lowest = min(scores)
    powers = [math.exp((lowest - score) / temperature) for score in scores]
    norm = math.fsum(powers)
    return [power / norm * score for power, score in zip(powers, scores, strict=True)]
