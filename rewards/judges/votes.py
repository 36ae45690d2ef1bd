"""Reward from several judgements of a group, the doubtful ones of which a meta judge strikes out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from buffers.scores import Sample, Score
from rewards.answers import Failure
from rewards.judges.asking import Asker
from rewards.judges.base import Judge, side_by_side
from rewards.judges.listwise import masked
from rewards.judges.prompts import Quotation, Template, load_template
from rewards.judges.verdicts import NUMBER, Form, json_form, number, score_form

__all__ = ["Votes", "best", "voted"]

LOWEST, HIGHEST = 1.0, 10.0


@dataclass(frozen=True, kw_only=True)
class Votes(Judge):
    """Mean grade, from 1 to 10, of an answer over `votes` judgements of its group; a meta judge keeps the better half.

    Each judgement writes principles and a critique and sees the answers in another order. With a section `meta`, a
    second model grades how sound each judgement is. Judgements that cannot be read do not count; without any, the
    group is abstained.

        component:
          target: judge_votes
          votes: 8
          endpoint: {url: "http://127.0.0.1:8000/v1", model: judge, temperature: 1.0, max_tokens: 2048}
          meta: {url: "http://127.0.0.1:8001/v1", model: meta}
        deadline_s: 180

    Source: DeepSeek-GRM, arXiv:2504.02495; the meta reward model is a grade from a language model here.
    """

    votes: int = 4
    meta: Mapping[str, Any] | None = None
    """A section like `endpoint`; None: all judgements count."""
    meta_template: str = "votes_meta"
    kept: int | None = None
    """Judgements that the meta judge leaves; None: half of them, rounded up."""
    _meta_asker: Asker | None = field(init=False, repr=False, compare=False)
    _meta_prompt: Template = field(init=False, repr=False, compare=False)

    scope: ClassVar[str] = "group"
    own_template: ClassVar[str] = "votes"
    fills: ClassVar[frozenset[str]] = frozenset({"question", "responses", "form"})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.votes < 1 or not 1 <= (self.kept or 1) <= self.votes:
            raise ValueError(
                f"votes and kept are {self.votes} and {self.kept}; 1 <= kept <= votes must hold; try 4 and 2"
            )
        needed = frozenset({"question", "responses", "judgement", "form"})
        object.__setattr__(self, "_meta_prompt", load_template(self.meta_template, needed))
        object.__setattr__(
            self, "_meta_asker", None if self.meta is None else Asker(self.meta, "meta", self.model_pools)
        )

    def askers(self) -> dict[str, Asker]:
        return super().askers() | ({} if self._meta_asker is None else {"meta_": self._meta_asker})

    async def judge(self, unit: Sequence[Sample], until: float) -> list[Score]:
        answers = await side_by_side(self._judgement(unit, until, draw) for draw in range(self.votes))
        read = [answer for answer in answers if not isinstance(answer, Failure)]
        if not read:
            failure = next(answer for answer in answers if isinstance(answer, Failure))
            return [self.invalid(failure)] * len(unit)
        if self._meta_asker is not None:
            read = [read[i] for i in best(self.kept or (self.votes + 1) // 2, [mark for _, mark in read])]
        evidence = f"{len(read)} of {self.votes} judgements counted"
        return [self.ok(total / len(read), evidence) for total in voted([grades for grades, _ in read])]

    async def _judgement(self, unit: Sequence[Sample], until: float, draw: int) -> tuple[list[float], float] | Failure:
        """Return the grades by position, and how sound the meta judge finds them."""
        names = masked(unit, draw)
        quoted: dict[str, Quotation] = {
            "question": unit[0].prompt,
            "responses": {name: unit[i].completion for name, i in names.items()},
        }
        ruling = await self.ask(quoted, grades_form(list(names)), until, draw=draw)
        if isinstance(ruling, Failure):
            return ruling
        mark = await self._mark({**quoted, "judgement": ruling.reply}, until)
        if isinstance(mark, Failure):
            return mark._replace(detail=f"meta judge: {mark.detail}")
        position = {i: name for name, i in names.items()}
        return [ruling.value[position[i]] for i in range(len(unit))], mark

    async def _mark(self, quoted: Mapping[str, Quotation], until: float) -> float | Failure:
        if self._meta_asker is None:
            return 0.0
        form = score_form(0.0, 10.0)
        ruling = await self._meta_asker.ask(self._meta_prompt.fill(quoted, {"form": form.ask}), form, until)
        return ruling if isinstance(ruling, Failure) else ruling.value


def voted(judgements: Sequence[Sequence[float]]) -> list[float]:
    """Return the sum of grades of each answer.

    Args:
      judgements: [K, G] grades.

    Source: voting of DeepSeek-GRM, arXiv:2504.02495.
    """
    return [sum(grades) for grades in zip(*judgements, strict=True)]


def best(count: int, marks: Sequence[float]) -> list[int]:
    """Return the positions of the `count` highest marks, in order; of equal ones the earlier."""
    return sorted(sorted(range(len(marks)), key=lambda i: -marks[i])[:count])


def grades_form(names: Sequence[str]) -> Form[Any]:
    """Return the form of a whole grade from 1 to 10 for every name."""

    def read(found: dict[str, Any]) -> dict[str, float] | None:
        scores = found["scores"]
        if not isinstance(scores, dict) or scores.keys() != set(names):
            return None
        grades = {name: number(scores[name], LOWEST, HIGHEST) for name in names}
        known = {name: grade for name, grade in grades.items() if grade is not None}
        return known if len(known) == len(names) else None

    each = {"type": "object", "properties": dict.fromkeys(names, NUMBER), "required": list(names)}
    shown = ", ".join(f'"{name}": 1 to 10' for name in names)
    example = f'{{"reason": "one sentence", "scores": {{{shown}}}}}'
    return json_form({"scores": {**each, "additionalProperties": False}}, example, read)
