"""Reward for having found what the question was built from, where the answer is wrong."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from buffers.scores import Sample, Score, ScoreStatus
from rewards.base import Component
from rewards.verifiers.extract import last_tagged
from rewards.verifiers.text_match import normal, references

__all__ = ["EntityMatch"]


@dataclass(frozen=True, kw_only=True)
class EntityMatch(Component):
    """1.0 for a right answer; `alpha` times the share of entities that its thoughts name, over the group's best, else.

    Thoughts are what all `<think>...</think>` hold (what tools returned is not in them); `entities` of the metadata
    are matched literally. 0.0 without an answer, or cut off for its length. Abstains without entities or reference.

        component: {target: entity_match, alpha: 0.3}

    Source: E-GRPO, arXiv:2510.24694.
    """

    scope = "group"

    alpha: float = 0.3
    thought_tag: str = "think"
    answer_tag: str = "answer"

    def __post_init__(self) -> None:
        if not 0 <= self.alpha < 1:
            raise ValueError(f"alpha is {self.alpha}; it must lie in [0, 1), below a right answer; try 0.3")

    def score(self, samples: Sequence[Sample]) -> list[Score]:
        best: defaultdict[str, float] = defaultdict(float)
        rates = [self._rate(sample) for sample in samples]
        for sample, rate in zip(samples, rates, strict=True):
            best[sample.group] = max(best[sample.group], rate)
        return [self._judge(s, rate / (best[s.group] or 1.0)) for s, rate in zip(samples, rates, strict=True)]

    def _rate(self, sample: Sample) -> float:
        entities = set(map(str, sample.metadata.get("entities", ()))) - {""}
        thoughts = "\n".join(
            part.partition(f"</{self.thought_tag}>")[0] for part in sample.completion.split(f"<{self.thought_tag}>")[1:]
        )
        return sum(entity in thoughts for entity in entities) / max(1, len(entities))

    def _judge(self, sample: Sample, rate: float) -> Score:
        known = references(sample)
        if not known or not sample.metadata.get("entities"):
            return Score.invalid(ScoreStatus.ABSTAINED, f"{sample.id}: needs metadata.entities and a reference answer")
        answer = last_tagged(sample.completion, self.answer_tag)
        if answer is None or sample.finish_reason == "length":
            return Score(value=0.0, detail="no answer" if answer is None else "cut off")
        return Score(value=1.0 if normal(answer) in map(normal, known) else self.alpha * rate)
