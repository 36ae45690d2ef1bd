"""Reward that a reasoning-gym generator gives itself, judged in a killable child.

Some generators call `eval` on the answer or search a puzzle's states, so hangs are possible.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from buffers.scores import Sample, Score, ScoreStatus
from rewards.base import Component
from rewards.verifiers.child import ChildPool

__all__ = ["ReasoningGym"]

_CHILDREN = ChildPool("rewards.verifiers.reasoning_gym_judge:judge")


@dataclass(frozen=True, kw_only=True)
class ReasoningGym(Component):
    """The generator's own score in [0, 1]; `metadata` holds `dataset` (its name) and `entry` (as JSON).

    Abstains where the metadata is missing, since the task then has another source.

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

    def warm(self, concurrency: int) -> None:
        """Start the children, so that their imports do not eat the first call's deadline."""
        _CHILDREN.warm(concurrency)

    def score(self, samples: Sequence[Sample]) -> list[Score]:
        return [self._judge(sample) for sample in samples]

    def _judge(self, sample: Sample) -> Score:
        if not {"dataset", "entry"} <= sample.metadata.keys():
            detail = f"{sample.id}: metadata lacks `dataset` or `entry`; take tasks from the reasoning_gym source"
            return Score.invalid(ScoreStatus.ABSTAINED, detail)
        answer = _between(sample.completion, self.answer_tag) if self.answer_tag else sample.completion.strip()
        if answer is None:
            return Score(value=0.0)
        item = {"dataset": sample.metadata["dataset"], "entry": sample.metadata["entry"], "answer": answer}
        return _CHILDREN.judge(item, self.deadline_s)


def _between(text: str, tag: str) -> str | None:
    end = text.rfind(f"</{tag}>")
    start = text.rfind(f"<{tag}>", 0, max(end, 0))
    return text[start + len(tag) + 2 : end].strip() if start >= 0 else None
