"""Reward for knowing what one does not know, and for being as sure as one is right."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from statistics import fmean
from typing import ClassVar

from buffers.scores import Sample, Score, ScoreStatus
from rewards.process.hosted import HostedModel
from rewards.process.steps import sampled_turns
from rewards.verifiers.abstention import AnswerOrAbstain

__all__ = ["CalibratedAbstention", "brier"]


@dataclass(frozen=True, kw_only=True)
class CalibratedAbstention(AnswerOrAbstain):
    """The table of `answer_or_abstain`, minus confidence_weight (c - correct)^2 where it answers.

    c is exp(mean log-probability of the answer's tokens), by the weights that sampled them; correct is 1 or 0, and 0
    for any answer to what cannot be answered. Who abstains claims nothing, so the table alone counts. The vector
    holds (c, correct).

        component: {target: calibrated_abstention, answer_tag: answer, tokenizer: models/policy}

    Source: SALU, "Reinforcement Learning from Human Feedback for Robust Unanswerability Recognition" (2025); the
    numbers are placeholders, and the squared form is reconstructed from its abstract.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"tokens", "logprobs"})

    confidence_weight: float = 0.5
    tokenizer: str = ""
    """Folder of the policy's tokenizer, usually `model.path`: finds the tokens of the tagged answer. Without
    `answer_tag` every sampled token belongs to the answer, and none is needed."""
    _texts: HostedModel = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.confidence_weight >= 0:
            raise ValueError(f"confidence_weight is {self.confidence_weight}; it must be >= 0; 0.5 is usual")
        if self.answer_tag and not self.tokenizer:
            raise ValueError(f"answer_tag is {self.answer_tag!r} without a tokenizer; name the policy's folder")
        object.__setattr__(self, "_texts", HostedModel(self.tokenizer))

    def _judge(self, sample: Sample) -> Score:
        score = super()._judge(sample)
        if score.value is None or self._abstains(self._answer(sample)):
            return score
        if not (nats := [sample.logprobs[i] for i in self._places(sample)] if sample.logprobs else []):
            what = f"{sample.id}: no log-probabilities of an answer's tokens; score a run's trajectories"
            return Score.invalid(ScoreStatus.ABSTAINED, what)
        correct = float(bool(sample.metadata.get("answerable", True)) and score.value == self.right)
        confidence = math.exp(fmean(nats))
        value = score.value - self.confidence_weight * brier(confidence, correct)
        return replace(score, value=value, vector=(confidence, correct))

    def _places(self, sample: Sample) -> Sequence[int]:
        """Return the positions of the answer's tokens; those of the tagged answer overlap what the tags enclose."""
        sampled = [i for start, end in sampled_turns(sample) for i in range(start, end)]
        if not self.answer_tag:
            return sampled
        texts = [self._texts.text_of(sample.tokens[i]) for i in sampled]
        whole, ends = "".join(texts), list(accumulate(map(len, texts)))
        last = max(whole.rfind(f"</{self.answer_tag}>"), 0)
        first = whole.rfind(f"<{self.answer_tag}>", 0, last) + len(self.answer_tag) + 2
        spans = zip(sampled, ends, texts, strict=True)
        return [i for i, end, text in spans if text and end > first and end - len(text) < last]


def brier(confidence: float, correct: float) -> float:
    """Return the squared error of a probability."""
    return (confidence - correct) ** 2
