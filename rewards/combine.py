"""From the scores of all components to one total."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from buffers.scores import Score, ScoreStatus

__all__ = ["Combine", "Verdict", "WeightedSum"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What the reward graph says of one sample."""

    scores: dict[str, Score] = field(default_factory=dict)
    """By component, unweighted."""
    total: float | None = None
    """Reward units; None unless the status is ok."""
    status: ScoreStatus = ScoreStatus.OK
    detail: str = ""
    """Why there is no total."""


class Combine(Protocol):
    """Turns scores into a verdict; pure, so that recorded scores can be combined anew."""

    def __call__(self, scores: Mapping[str, Score]) -> Verdict: ...


class WeightedSum:
    """Weighted sum of all components; invalid where one of them is, except those in `ignore_invalid`.

    An ignored component leaves the sum when it is invalid; the other weights stay as they are.

    Source: scalarisation as in multi-objective RL, arXiv:2103.09568.
    """

    def __init__(self, weights: Mapping[str, float], ignore_invalid: Iterable[str] = ()) -> None:
        self._weights = dict(weights)
        self._ignored = frozenset([ignore_invalid] if isinstance(ignore_invalid, str) else ignore_invalid)
        if unknown := sorted(self._ignored - self._weights.keys()):
            raise ValueError(f"ignore_invalid names {unknown}; the components are {sorted(self._weights)}")

    def __call__(self, scores: Mapping[str, Score]) -> Verdict:
        """Return the verdict over `scores`, one for each weight."""
        total, counted = 0.0, 0
        for name, weight in self._weights.items():
            score = scores[name]
            if score.value is not None:
                total, counted = total + weight * score.value, counted + 1
            elif name not in self._ignored:
                return Verdict(scores=dict(scores), status=score.status, detail=f"{name}: {score.detail}")
        if not counted:
            detail = "every component is invalid, and all of them are in ignore_invalid"
            return Verdict(scores=dict(scores), status=ScoreStatus.ABSTAINED, detail=detail)
        return Verdict(scores=dict(scores), total=total)
