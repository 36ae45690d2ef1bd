"""Reward by what a user wishes beside the right outcome: fewer calls, less money, less time.

Dimensions: G samples of a group, K components that are read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from buffers.scores import Sample, Score, ScoreStatus
from rewards.base import Component
from rewards.batching import units
from rewards.shaping.earlier import earlier_values, require_named

__all__ = ["Preferences", "scaled"]


@dataclass(frozen=True, kw_only=True)
class Preferences(Component):
    """Preferences times the scores of other components, each scaled to [0, 1] in its group; 0 unless the outcome is 1.

    A task may have preferences of its own (`metadata: {preferences: {cost: 0.5}}`), which win by name. The vector
    holds the scaled scores in the order of `after`. More must be better: a cost is a negative score. Whoever lacks
    one of the scores is abstained and scales nobody.

        component:
          target: preferences
          after: [correct, cost]
          outcome: correct
          preferences: {correct: 1.0, cost: 0.5}

    Source: ToolOrchestra, arXiv:2511.21689.
    """

    scope: ClassVar[str] = "group"

    after: Sequence[str]
    """Components that are read, the outcome among them."""
    outcome: str
    preferences: Mapping[str, float] = field(default_factory=dict)
    """In [0, 1] by component; 0 for those that are left out."""

    def __post_init__(self) -> None:
        require_named(self.after, outcome=self.outcome)
        if problem := self._problem(self.preferences):
            raise ValueError(f"preferences: {problem}")

    def score(self, samples: Sequence[Sample]) -> list[Score]:
        found: dict[int, Score] = {}
        for unit in units(samples, self.scope):
            found.update(zip(unit, self._group([samples[i] for i in unit]), strict=True))
        return [found[i] for i in range(len(samples))]

    def _group(self, samples: Sequence[Sample]) -> list[Score]:
        told = [earlier_values(sample, self.after) for sample in samples]
        valid = [row for row in told if not isinstance(row, Score)]
        columns = {name: iter(scaled([row[name] for row in valid])) for name in self.after}
        return [
            row if isinstance(row, Score) else self._score(sample, row, {name: next(columns[name]) for name in columns})
            for sample, row in zip(samples, told, strict=True)
        ]

    def _score(self, sample: Sample, values: Mapping[str, float], scales: Mapping[str, float]) -> Score:
        wishes = {**self.preferences, **(sample.metadata.get("preferences") or {})}
        if problem := self._problem(wishes):
            return Score.invalid(ScoreStatus.ABSTAINED, f"{sample.id}: metadata.preferences: {problem}")
        total = sum(wishes.get(name, 0.0) * scale for name, scale in scales.items())
        return Score(value=total if values[self.outcome] >= 1.0 else 0.0, vector=tuple(scales.values()))

    def _problem(self, preferences: Mapping[str, float]) -> str:
        for name, wish in preferences.items():
            if name not in self.after:
                return f"{name!r} is not in after, which is {list(self.after)}; add it there"
            if not (isinstance(wish, int | float) and 0 <= wish <= 1):
                return f"{name} is {wish!r}; it must lie in [0, 1]; scale all of them"
        return ""


def scaled(values: Sequence[float]) -> list[float]:
    """Return (x - min) / (max - min) of each of [G] values; 0 where all are equal. Source: arXiv:2511.21689."""
    low, high = min(values, default=0.0), max(values, default=0.0)
    return [(value - low) / (high - low) if high > low else 0.0 for value in values]
