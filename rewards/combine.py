"""From the scores of all components to one verdict: a total, and the rewards of steps.

    raw score -> transforms -> credit: outcome -> rule(values, weights) -> total
                                     : steps   -> weighted sum at the end of each step

Everything here is pure: recorded scores are raw, so that a replay or another graph combines them anew.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from buffers.scores import Score, ScoreStatus, StepRewards
from rewards.rules import Rule, WeightedSum
from rewards.schedules import Constant, Schedule

__all__ = ["Combine", "Gate", "Term", "Transform", "Verdict"]

WHOLE = Constant(1.0)
Transform = Callable[[Score], Score]
"""Pure; keeps status and provenance."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What the reward graph says of one sample."""

    scores: dict[str, Score] = field(default_factory=dict)
    """By component, unweighted and before any transform."""
    total: float | None = None
    """Reward units; None unless the status is ok."""
    steps: StepRewards | None = None
    """Beside the total; None where no component gives credit to steps."""
    status: ScoreStatus = ScoreStatus.OK
    detail: str = ""
    """Why there is no total."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Term:
    """How a component enters the verdict."""

    weight: Schedule = WHOLE
    credit: str = "outcome"
    """outcome: its value counts in the total. steps: its span values count in the rewards of steps. both."""
    transforms: Sequence[Transform] = ()

    def transformed(self, score: Score) -> Score:
        """Return the score after the chain; invalid where a transform has no finite answer."""
        if score.value is None:
            return score
        try:
            for transform in self.transforms:
                score = transform(score)
        except (ArithmeticError, ValueError) as error:
            return Score.invalid(ScoreStatus.ERROR, f"a transform of it failed: {error}", component=score.component)
        return score


@dataclass(frozen=True, kw_only=True, slots=True)
class Gate:
    """A component that must be passed: at most `above`, and the total is `floor` and no step has a reward."""

    component: str
    above: float = 0.0
    """Reward units, after the transforms of the component."""
    floor: float = 0.0


class Combine:
    """Turns scores into a verdict; invalid where one of them is, except those in `ignore_invalid`.

    An ignored component leaves the total when it is invalid; the other weights stay as they are. So does one
    that was not asked: those with `when: batch` have no score at arrival. Gates are tried in their order.
    """

    def __init__(
        self,
        terms: Mapping[str, Term],
        rule: Rule | None = None,
        *,
        gates: Sequence[Gate] = (),
        ignore_invalid: Iterable[str] = (),
    ) -> None:
        """Wire the terms by component; `rule` is a weighted sum unless said.

        Raises:
          ValueError: a gate or `ignore_invalid` names no component, or a gate may be ignored.
        """
        self._terms, self._rule, self._gates = dict(terms), rule or WeightedSum(), tuple(gates)
        self._ignored = frozenset([ignore_invalid] if isinstance(ignore_invalid, str) else ignore_invalid)
        self._gives_steps = any(term.credit != "outcome" for term in self._terms.values())
        gated = [gate.component for gate in self._gates]
        for key, names in (("ignore_invalid", self._ignored), ("gates", gated)):
            if unknown := sorted(set(names) - self._terms.keys()):
                raise ValueError(f"{key} names {unknown}; the components are {sorted(self._terms)}")
        if both := sorted(self._ignored.intersection(gated)):
            raise ValueError(f"ignore_invalid names {both}, which are gates; who cannot be judged cannot pass")

    @property
    def scheduled(self) -> bool:
        """Whether a verdict depends on the update that consumes it."""
        return not all(isinstance(term.weight, Constant) for term in self._terms.values())

    def __call__(self, scores: Mapping[str, Score], version: int) -> Verdict:
        """Return the verdict over `scores`, for the update that starts from the weights `version`."""
        raw = dict(scores)
        found = {name: term.transformed(raw[name]) for name, term in self._terms.items() if name in raw}
        valid = {name: score for name, score in found.items() if score.value is not None}
        for name, score in found.items():
            if name not in valid and name not in self._ignored:
                return Verdict(scores=raw, status=score.status, detail=f"{name}: {score.detail}")
        if found and not valid:
            detail = "every component is invalid, and all of them are in ignore_invalid"
            return Verdict(scores=raw, status=ScoreStatus.ABSTAINED, detail=detail)
        for gate in self._gates:
            if gate.component in valid and not _value(valid[gate.component]) > gate.above:
                return Verdict(scores=raw, total=gate.floor, steps=self._nothing)
        try:
            return self._combined(raw, valid, version)
        except (ArithmeticError, ValueError) as error:
            return Verdict(scores=raw, status=ScoreStatus.ERROR, detail=f"rewards.combine: {error}")

    def _combined(self, raw: dict[str, Score], valid: Mapping[str, Score], version: int) -> Verdict:
        weights = {name: self._terms[name].weight(version) for name in valid}
        total = self._rule({n: _value(s) for n, s in valid.items() if self._terms[n].credit != "steps"}, weights)
        steps = self._steps(valid, weights)
        if not all(map(math.isfinite, (total, *(steps.values if steps else ())))):
            raise ValueError(f"the total or a step is not finite; clip or scale {sorted(valid)}")
        return Verdict(scores=raw, total=total, steps=steps)

    @property
    def _nothing(self) -> StepRewards | None:
        return StepRewards((), ()) if self._gives_steps else None

    def _steps(self, valid: Mapping[str, Score], weights: Mapping[str, float]) -> StepRewards | None:
        """Return the weighted sum of step rewards at each end; None where no component gives any."""
        sums: dict[int, float] = {}
        for name, score in valid.items():
            if self._terms[name].credit != "outcome":
                for span, value in zip(score.spans, score.span_values, strict=True):
                    sums[span.end] = sums.get(span.end, 0.0) + weights[name] * value
        ends = sorted(sums)
        return StepRewards(tuple(ends), tuple(sums[end] for end in ends)) if ends else self._nothing


def _value(score: Score) -> float:
    assert score.value is not None, "invalid scores were left out"
    return score.value
