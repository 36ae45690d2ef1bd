"""Rewards for the words of the reference answer, whatever their case, articles and punctuation."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from buffers.scores import Sample, Score, ScoreStatus
from configs.errors import nearest
from rewards.base import Component
from rewards.verifiers.extract import last_tagged

__all__ = ["TextMatch", "f1", "normal", "references"]

MEASURES = ("exact", "f1", "set", "set_f1")
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
_SEPARATORS = re.compile(r"[,;\n]")


@dataclass(frozen=True, kw_only=True)
class TextMatch(Component):
    """How well the answer's words match the nearest of the references: exact (0 or 1) or F1, of words or items.

    Texts are compared without case, punctuation, articles and double blanks. `measure: set` splits answers at
    commas, semicolons and line breaks, and compares sets of items (0 or 1); `set_f1` is the F1 of those sets.
    References are the list `answers` of the metadata, or the sample's answer; abstains without.

        component: {target: text_match, measure: f1, answer_tag: answer}

    Source: the evaluation of SQuAD, arXiv:1606.05250 sec. 6.1.
    """

    measure: str = "f1"
    answer_tag: str = ""
    """The answer is the last `<tag>...</tag>`; empty takes the whole completion."""

    def __post_init__(self) -> None:
        if self.measure not in MEASURES:
            raise ValueError(f"measure is {self.measure!r}, which is none{nearest(self.measure, MEASURES)}")

    def score(self, samples: Sequence[Sample]) -> list[Score]:
        return [self._judge(sample) for sample in samples]

    def _judge(self, sample: Sample) -> Score:
        known = references(sample)
        if not known:
            return Score.invalid(ScoreStatus.ABSTAINED, f"{sample.id} has no reference answer")
        answer = last_tagged(sample.completion, self.answer_tag) if self.answer_tag else sample.completion
        if answer is None:
            return Score(value=0.0, detail=f"no <{self.answer_tag}>")
        return Score(value=max(self._measure(answer, reference) for reference in known))

    def _measure(self, answer: str, reference: str) -> float:
        if self.measure == "exact":
            return float(normal(answer) == normal(reference))
        if self.measure == "f1":
            return f1(Counter(normal(answer).split()), Counter(normal(reference).split()))
        given, expected = _items(answer), _items(reference)
        return float(given == expected) if self.measure == "set" else f1(given, expected)


def references(sample: Sample) -> list[str]:
    """Return the reference answers of a sample, none of them empty."""
    known = sample.metadata.get("answers") or [sample.answer]
    return [str(text) for text in known if str(text).strip()]


def normal(text: str) -> str:
    """Return the text in lower case, without punctuation and articles, its words one blank apart."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split())


def f1(given: Counter[str], expected: Counter[str]) -> float:
    """Return the harmonic mean of precision and recall of two multisets; 1.0 where both are empty."""
    if not given or not expected:
        return float(given == expected)
    return 2 * (given & expected).total() / (given.total() + expected.total())


def _items(text: str) -> Counter[str]:
    return Counter({item for part in _SEPARATORS.split(text) if (item := normal(part))})
