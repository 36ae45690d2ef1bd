"""Reward that a reasoning-gym generator gives itself, judged in the sandbox.

Some generators call `eval` on the answer, so that it may be any program, or search a puzzle's states for ever.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from buffers.scores import Sample, Score, ScoreStatus
from rewards.base import Component
from rewards.sandbox.limits import Limits
from rewards.sandbox.pool import Sandbox
from rewards.sandbox.program import Order
from rewards.verifiers.extract import last_tagged

__all__ = ["ReasoningGym"]

_SANDBOX = Sandbox(
    Order(target="rewards.verifiers.reasoning_gym_judge:judge", limits=Limits(memory_bytes=4 << 30, threads=256))
)


@dataclass(frozen=True, kw_only=True)
class ReasoningGym(Component):
    """The generator's own score in [0, 1]; `metadata` holds `dataset` (its name) and `entry` (as JSON).

    Abstains where the metadata is missing, since the task then has another source.

        component: {target: reasoning_gym, answer_tag: answer}

    Source: Reasoning Gym, arXiv:2505.24760; https://github.com/open-thought/reasoning-gym.
    """

    answer_tag: str = ""
    """The answer is the last `<tag>...</tag>`; empty takes the whole completion, stripped."""
    deadline_s: float = 5.0
    """For one sample."""

    def __post_init__(self) -> None:
        if not self.deadline_s > 0:
            raise ValueError(f"deadline_s is {self.deadline_s}; it must be > 0; 5 suits most generators")
        if self.answer_tag and not self.answer_tag.isidentifier():
            raise ValueError(f"answer_tag is {self.answer_tag!r}; it must be a name without brackets; try answer")

    def require_containment(self) -> None:
        """Let hostile programs try to get out, once in this process."""
        _SANDBOX.require_containment()

    def warm(self, concurrency: int) -> None:
        """Start the zygotes, so that their imports do not eat the first call's deadline."""
        _SANDBOX.warm(concurrency)

    def score(self, samples: Sequence[Sample]) -> list[Score]:
        return [self._judge(sample) for sample in samples]

    def _judge(self, sample: Sample) -> Score:
        if not {"dataset", "entry"} <= sample.metadata.keys():
            detail = f"{sample.id}: metadata lacks `dataset` or `entry`; take tasks from the reasoning_gym source"
            return Score.invalid(ScoreStatus.ABSTAINED, detail)
        answer = last_tagged(sample.completion, self.answer_tag) if self.answer_tag else sample.completion.strip()
        if answer is None:
            return Score(value=0.0)
        item = {"dataset": sample.metadata["dataset"], "entry": sample.metadata["entry"], "answer": answer}
        return _SANDBOX.judge(item, self.deadline_s)
