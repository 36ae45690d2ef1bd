"""Reward for knowing what one does not know."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from buffers.scores import Sample, Score, ScoreStatus
from rewards.base import Component
from rewards.verifiers.extract import last_tagged
from rewards.verifiers.text_match import normal, references

__all__ = ["AnswerOrAbstain"]


@dataclass(frozen=True, kw_only=True)
class AnswerOrAbstain(Component):
    """A table: answerable and right, wrong or abstained; unanswerable and abstained or answered.

    A completion abstains if its answer contains one of `phrases`; it is right if its words are those of a
    reference. Whether a question can be answered is `answerable` of its metadata (true if there is none). With the
    defaults answering pays above a probability of 0.4 of being right.

        component: {target: answer_or_abstain, phrases: ["I don't know"], answer_tag: answer}

    Source: SALU, "Reinforcement Learning from Human Feedback for Robust Unanswerability Recognition" (2025); the
    numbers are placeholders. Its confidence term needs log-probabilities, see `calibrated_abstention`.
    """

    right: float = 1.0
    wrong: float = -1.5
    abstained: float = -0.5
    unanswerable_abstained: float = 1.0
    unanswerable_answered: float = -2.0
    phrases: Sequence[str] = ("I don't know", "I do not know", "cannot be answered", "unanswerable")
    answer_tag: str = ""
    """The answer is the last `<tag>...</tag>`; empty takes the whole completion."""

    def __post_init__(self) -> None:
        if isinstance(self.phrases, str) or not [p for p in self.phrases if normal(p)]:
            raise ValueError(f"phrases is {self.phrases!r}; it must be a list of texts; try [I don't know]")
        if not self.wrong < self.abstained < self.right:
            raise ValueError(
                f"wrong, abstained, right are {self.wrong:g}, {self.abstained:g}, {self.right:g}; they must rise, or "
                "abstaining never pays; lower or raise one"
            )

    def score(self, samples: Sequence[Sample]) -> list[Score]:
        return [self._judge(sample) for sample in samples]

    def _judge(self, sample: Sample) -> Score:
        answer = self._answer(sample)
        abstains = self._abstains(answer)
        if not sample.metadata.get("answerable", True):
            return Score(value=self.unanswerable_abstained if abstains else self.unanswerable_answered)
        if abstains:
            return Score(value=self.abstained)
        known = references(sample)
        if not known:
            return Score.invalid(ScoreStatus.ABSTAINED, f"{sample.id} can be answered, but has no reference answer")
        return Score(value=self.right if answer in map(normal, known) else self.wrong)

    def _answer(self, sample: Sample) -> str:
        tagged = last_tagged(sample.completion, self.answer_tag) if self.answer_tag else sample.completion
        return normal(tagged or "")

    def _abstains(self, answer: str) -> bool:
        return any(f" {normal(phrase)} " in f" {answer} " for phrase in self.phrases)
