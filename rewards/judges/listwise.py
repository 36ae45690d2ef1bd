"""Reward from a judge that puts all answers of a group in order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from buffers.scores import Sample, Score, ScoreStatus
from rewards.answers import Failure
from rewards.judges.base import Judge
from rewards.judges.cache import shuffled
from rewards.judges.verdicts import TEXT, Form, json_form

__all__ = ["Listwise", "is_order_of", "masked", "order_form"]


@dataclass(frozen=True, kw_only=True)
class Listwise(Judge):
    """An answer's place in its group as one reply ranks it: 1.0 for the best, 0.0 for the last, evenly between.

    The judge sees the answers under numbers and in a shuffled order, so that no place pays. A ranking that leaves
    one out, or names one twice, is abstained.

        component:
          target: judge_listwise
          rubric: The answer is correct, short and polite, in this order of importance.
          endpoint: {url: "http://127.0.0.1:8000/v1", model: judge, structured: true, max_tokens: 2048}
        deadline_s: 120

    Source: permutation generation of RankGPT, arXiv:2304.09542.
    """

    rubric: str
    """What the answers are to be ranked by, in words."""

    scope: ClassVar[str] = "group"
    own_template: ClassVar[str] = "listwise"
    fills: ClassVar[frozenset[str]] = frozenset({"rubric", "question", "responses", "form"})

    def terms(self) -> dict[str, str]:
        return {"rubric": self.rubric}

    async def judge(self, unit: Sequence[Sample], until: float) -> list[Score]:
        if len(unit) < 2:
            what = f"group {unit[0].group} has one sample; ranking needs at least 2"
            return [self.invalid(Failure(ScoreStatus.ABSTAINED, what))]
        names = masked(unit)
        texts = {name: unit[i].completion for name, i in names.items()}
        ruling = await self.ask({"question": unit[0].prompt, "responses": texts}, order_form(list(names)), until)
        if isinstance(ruling, Failure):
            return [self.invalid(ruling)] * len(unit)
        place = {names[name]: rank for rank, name in enumerate(ruling.value)}
        last = len(unit) - 1
        return [self.ok((last - place[i]) / last, ruling.reply) for i in range(len(unit))]


def masked(unit: Sequence[Sample], draw: int = 0) -> dict[str, int]:
    """Return name -> position, in the order in which answers are shown; it depends on texts and `draw` alone."""
    order = shuffled(len(unit), draw, [sample.completion for sample in unit])
    return {str(shown): position for shown, position in enumerate(order, 1)}


def is_order_of(found: Any, names: Sequence[str]) -> bool:
    """Return whether a JSON value lists every name once."""
    return isinstance(found, list) and all(isinstance(name, str) for name in found) and sorted(found) == sorted(names)


def order_form(names: Sequence[str]) -> Form[Any]:
    """Return the form of a list of names, best first."""
    choice = {"type": "array", "items": {**TEXT, "enum": list(names)}, "minItems": len(names), "maxItems": len(names)}
    example = '{"reason": "one sentence", "ranking": ["number of the best response", "...", "number of the worst"]}'
    return json_form(
        {"ranking": choice}, example, lambda found: found["ranking"] if is_order_of(found["ranking"], names) else None
    )
