"""What a component answered, checked: anything but one finite score per sample becomes an error."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from buffers.scores import Score, ScoreStatus

__all__ = ["Failure", "Stamp", "checked"]


class Failure(NamedTuple):
    """Why a whole call has no answer."""

    status: ScoreStatus
    detail: str
    final: bool = False
    """Trying again would be in vain."""
    paused: bool = False
    """Nobody was asked: a budget is used up."""


class Stamp(NamedTuple):
    """Where a score comes from; see the fields of `Score`."""

    component: str
    version: int
    attempt: int
    latency_s: float

    def on(self, score: Score) -> Score:
        # A component that learns while it is called knows better than its host which version scored.
        return replace(score, **{**self._asdict(), "version": score.version or self.version})

    def invalid(self, failure: Failure) -> Score:
        return Score.invalid(failure.status, failure.detail, paused=failure.paused, **self._asdict())


def checked(answer: Any, count: int, stamp: Stamp) -> list[Score] | Failure:
    """Return one stamped score per sample, or why the answer cannot be told apart by sample."""
    if not isinstance(answer, Sequence):
        what = f"component {stamp.component!r} returned {type(answer).__name__}; it must return a list of Score"
        return Failure(ScoreStatus.ERROR, what)
    if len(answer) != count:
        what = f"component {stamp.component!r} returned {len(answer)} scores for {count} samples"
        return Failure(ScoreStatus.ERROR, f"{what}; it must return one each, in order")
    return [_one(item, stamp) for item in answer]


def _one(item: Any, stamp: Stamp) -> Score:
    if not isinstance(item, Score):
        what = f"component {stamp.component!r} returned a {type(item).__name__}, {item!r:.80}"
        return stamp.invalid(Failure(ScoreStatus.ERROR, f"{what}; it must return Score objects"))
    if len(item.spans) != len(item.span_values):
        what = f"component {stamp.component!r} returned {len(item.span_values)} span values for {len(item.spans)} spans"
        return stamp.invalid(Failure(ScoreStatus.ERROR, f"{what}; it must return one each, in order"))
    if not all(map(math.isfinite, (*item.vector, *item.span_values))):
        what = f"component {stamp.component!r} returned a vector or span value that is not finite"
        return stamp.invalid(Failure(ScoreStatus.ERROR, what))
    return stamp.on(item)
