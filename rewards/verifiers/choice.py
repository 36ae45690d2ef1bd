"""Reward for choosing the right option of several."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from buffers.scores import Sample, Score, ScoreStatus
from rewards.base import Component
from rewards.verifiers.extract import last_tagged

__all__ = ["MultipleChoice", "chosen"]

_ALONE = re.compile(r"[\s*(\[{$]*([A-Za-z])(?:[*)\]}$.:,\n]|\s*$)")
_SAID = re.compile(
    r"(?:\b(?i:answer|option|choice)\b[\s:*]{0,8}(?:(?i:is)\b[\s:*]{0,8})?|\\boxed\{\s{0,8}(?:\\text\{)?)"
    r"\(?([A-Z])\b(?!')(?:\)?\s{0,3}(?:/|\bor\b|\band\b)\s{0,3}\(?([A-Z])\b)?"
)


@dataclass(frozen=True, kw_only=True)
class MultipleChoice(Component):
    """1.0 where the option that the completion chooses is the reference's letter, else 0.0.

    An option is chosen by the last of "answer is (C)", "Option: C" and "\\boxed{C}", or by a text that begins with
    the letter alone: "C", "(C)", "C. Paris". Choosing two ("A or B") chooses none. Abstains where the reference
    is no letter of `options`.

        component: {target: multiple_choice, options: ABCD}

    Source: the multiple-choice answers of MMLU, arXiv:2009.03300; the wordings are this project's.
    """

    options: str = "ABCDE"
    answer_tag: str = ""
    """Where to look: in the last `<tag>...</tag>`; empty takes the whole completion."""

    def __post_init__(self) -> None:
        if not re.fullmatch("[A-Z]{2,26}", self.options) or len(set(self.options)) < len(self.options):
            raise ValueError(f"options is {self.options!r}; it must be different capital letters; try ABCD")

    def score(self, samples: Sequence[Sample]) -> list[Score]:
        return [self._judge(sample) for sample in samples]

    def _judge(self, sample: Sample) -> Score:
        reference = chosen(sample.answer, self.options)
        if reference is None:
            detail = f"{sample.id}: the reference answer {sample.answer[:80]!r} is none of {self.options}"
            return Score.invalid(ScoreStatus.ABSTAINED, detail)
        text = last_tagged(sample.completion, self.answer_tag) if self.answer_tag else sample.completion
        return Score(value=float(chosen(text or "", self.options) == reference))


def chosen(text: str, options: str) -> str | None:
    """Return the capital letter that a text chooses, None where that is not clear."""
    said = [match for match in _SAID.finditer(text) if match[1] in options]
    if said:
        return None if (said[-1][2] or "-") in options else str(said[-1][1])
    alone = _ALONE.match(text)
    return alone[1].upper() if alone and alone[1].upper() in options else None
