"""The environment's own reward of a fragment, as a component like any other: recorded, shown and replayed."""

from __future__ import annotations

import math
from collections.abc import Sequence

from buffers.scores import ENVIRONMENT, Sample, Score, ScoreStatus
from rewards.base import Component

__all__ = ["EnvironmentReturn"]


class EnvironmentReturn(Component):
    """Sum of the rewards of a fragment's steps, which its worker has written down; needs no server."""

    def score(self, samples: Sequence[Sample]) -> list[Score]:
        """Return one score per sample; one without a finite return is an error."""
        return [_score(sample.metadata.get("return")) for sample in samples]


def _score(value: object) -> Score:
    if isinstance(value, int | float) and math.isfinite(value):
        return Score(value=float(value), component=ENVIRONMENT)
    detail = f"the fragment's metadata have return={value!r}; the environment must give finite rewards"
    return Score.invalid(ScoreStatus.ERROR, detail, component=ENVIRONMENT)
