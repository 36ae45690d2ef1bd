"""Reward from a judge that grades one answer by a rubric."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from buffers.scores import Sample, Score
from rewards.answers import Failure
from rewards.judges.base import Judge
from rewards.judges.verdicts import score_form

__all__ = ["Pointwise", "share"]


@dataclass(frozen=True, kw_only=True)
class Pointwise(Judge):
    """A model's grade of the answer by a rubric, as a share of the scale: 0.0 at its low end, 1.0 at its high one.

    The reference answer, where the task has one, is shown to the judge.

        component:
          target: judge_pointwise
          rubric: The answer is correct, and its steps follow from each other.
          endpoint: {url: "http://127.0.0.1:8000/v1", model: judge, structured: true}
        deadline_s: 60

    Source: single-answer grading of LLM-as-a-judge, arXiv:2306.05685 sec. 3.1; reference-guided: sec. 3.4.
    """

    rubric: str
    """What the answer is to be judged by, in words."""
    low: float = 0.0
    high: float = 10.0

    own_template: ClassVar[str] = "pointwise"
    fills: ClassVar[frozenset[str]] = frozenset({"rubric", "question", "answer", "form"})

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.rubric.strip():
            raise ValueError("rubric is empty; it must say what the answer is judged by; for example 'It is correct.'")
        if not self.low < self.high:
            raise ValueError(f"low and high are {self.low} and {self.high}; low must be < high; try 0 and 10")

    def terms(self) -> dict[str, str]:
        return {"rubric": self.rubric}

    async def judge(self, unit: Sequence[Sample], until: float) -> list[Score]:
        (sample,) = unit
        quoted = {"question": sample.prompt, "reference": sample.answer or "(none)", "answer": sample.completion}
        ruling = await self.ask(quoted, score_form(self.low, self.high), until)
        if isinstance(ruling, Failure):
            return [self.invalid(ruling)]
        return [self.ok(share(ruling.value, self.low, self.high), ruling.reply)]


def share(value: float, low: float, high: float) -> float:
    """Return where a grade lies between the ends of its scale, in [0, 1]."""
    return (value - low) / (high - low)
