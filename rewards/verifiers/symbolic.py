"""Reward for a mathematically equal answer, judged by Math-Verify in a killable, confined child.

Comparing `9^{9^{9^9}}` with anything never ends, and Math-Verify's own timeouts are signals that
wait for the interpreter, which such arithmetic never gives back; hence the child process.
Its parsers end in `eval`, though of little more than numbers: hence the confinement.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from buffers.scores import Sample, Score, ScoreStatus
from rewards.base import Component
from rewards.sandbox.probe import require_containment
from rewards.verifiers.child import ChildPool

__all__ = ["MathEqual"]

_CHILDREN = ChildPool("rewards.verifiers.symbolic_judge:judge", confined=True)


@dataclass(frozen=True, kw_only=True)
class MathEqual(Component):
    """1.0 where the completion's answer equals the reference mathematically, else 0.0 (LaTeX or plain).

    Abstains where the reference is missing or cannot be parsed; a comparison that does not end
    within `deadline_s` is a timeout.

        component: {target: math, deadline_s: 2.0}

    Source: Math-Verify, https://github.com/huggingface/Math-Verify.
    """

    deadline_s: float = 2.0
    """For one sample."""

    def __post_init__(self) -> None:
        if not self.deadline_s > 0:
            raise ValueError(f"deadline_s is {self.deadline_s}; it must be > 0; 2 suits school mathematics")

    def require_containment(self) -> None:
        """Let hostile programs try to get out, once in this process."""
        require_containment()

    def warm(self, concurrency: int) -> None:
        """Start the children, so that their imports do not eat the first call's deadline."""
        _CHILDREN.warm(concurrency)

    def score(self, samples: Sequence[Sample]) -> list[Score]:
        return [self._judge(sample) for sample in samples]

    def _judge(self, sample: Sample) -> Score:
        if not sample.answer.strip():
            return Score.invalid(ScoreStatus.ABSTAINED, f"{sample.id} has no reference answer")
        return _CHILDREN.judge({"reference": sample.answer, "completion": sample.completion}, self.deadline_s)
