"""Reward from a judge that goes through a checklist of what an answer must do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from buffers.scores import Sample, Score, ScoreStatus
from rewards.answers import Failure
from rewards.judges.base import Judge
from rewards.judges.prompts import Template, load_template
from rewards.judges.verdicts import TEXT, Form, json_form, number

__all__ = ["Checklist", "grades_form", "length_share"]

GRADES = (0.0, 0.5, 1.0)


@dataclass(frozen=True, kw_only=True)
class Checklist(Judge):
    """Mean grade of an answer over a checklist: 1 for what it does, 0.5 for half, 0 for what it does not.

    The checklist comes from the task (`metadata: {checklist: [...]}`), or from the section, or the judge writes
    one from the question, once for each question. An answer whose grades cannot all be read is abstained (the
    method counts an unreadable grade as 0). With `length_weight` an answer of the length that the task asks for
    (`metadata: {target_words: 300}`) gets that much on top; the vector holds both parts.

        component:
          target: judge_checklist
          length_weight: 0.2
          endpoint: {url: "http://127.0.0.1:8000/v1", model: judge, structured: true, max_tokens: 2048}
        deadline_s: 120

    Source: ACE-RL, arXiv:2509.04903; three-level grades and the triangle of the length are reconstructed.
    """

    checklist: Sequence[str] = ()
    derive_template: str = "checklist_derive"
    """By which the judge writes a checklist; a name or a path, as with `template`."""
    length_weight: float = 0.0
    """0.2 fits the method."""
    length_width: float = 0.5
    """Share of the target length by which an answer may miss it before that part is 0."""
    _derive: Template = field(init=False, repr=False, compare=False)

    own_template: ClassVar[str] = "checklist"
    fills: ClassVar[frozenset[str]] = frozenset({"checklist", "question", "answer", "form"})

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.length_weight >= 0 and self.length_width > 0):
            given = f"length_weight and length_width are {self.length_weight} and {self.length_width}"
            raise ValueError(f"{given}; they must be >= 0 and > 0; try 0.2 and 0.5")
        object.__setattr__(self, "_derive", load_template(self.derive_template, frozenset({"question", "form"})))

    async def judge(self, unit: Sequence[Sample], until: float) -> list[Score]:
        (sample,) = unit
        items = await self._items(sample, until)
        if isinstance(items, Failure):
            return [self.invalid(items)]
        listed = "\n".join(f"{place}. {item}" for place, item in enumerate(items, 1))
        quoted = {"question": sample.prompt, "answer": sample.completion}
        ruling = await self.ask(quoted, grades_form(len(items)), until, checklist=listed)
        if isinstance(ruling, Failure):
            return [self.invalid(ruling)]
        return [self._score(sample, ruling.value, ruling.reply)]

    async def _items(self, sample: Sample, until: float) -> list[str] | Failure:
        if own := sample.metadata.get("checklist") or self.checklist:
            return [str(item) for item in own]
        form = constraints_form()
        prompt = self._derive.fill({"question": sample.prompt}, {"form": form.ask})
        ruling = await self._asker.ask(prompt, form, until)
        return ruling if isinstance(ruling, Failure) else ruling.value

    def _score(self, sample: Sample, grades: list[float], evidence: str) -> Score:
        mean = sum(grades) / len(grades)
        if not self.length_weight:
            return self.ok(mean, evidence, vector=(mean,))
        target = number(sample.metadata.get("target_words"), 1, float("inf"))
        if target is None:
            what = f"{sample.id}: metadata.target_words is no number >= 1; set it, or leave length_weight out"
            return self.invalid(Failure(ScoreStatus.ABSTAINED, what))
        length = length_share(len(sample.completion.split()), target, self.length_width)
        return self.ok(mean + self.length_weight * length, evidence, vector=(mean, length))


def length_share(words: int, target: float, width: float) -> float:
    """Return 1 at the target length, falling to 0 at `width` targets beside it."""
    return max(0.0, 1.0 - abs(words - target) / (width * target))


def grades_form(count: int) -> Form[Any]:
    """Return the form of a grade of 0, 0.5 or 1 for each of `count` items, by number."""
    names = [str(place) for place in range(1, count + 1)]

    def read(found: dict[str, Any]) -> list[float] | None:
        grades = found["grades"]
        if not isinstance(grades, dict) or grades.keys() != set(names):
            return None
        read_ones = [number(grades[name], 0.0, 1.0) for name in names]
        return [grade for grade in read_ones if grade in GRADES] if set(read_ones) <= set(GRADES) else None

    each = {"enum": [0, 0.5, 1]}
    shown = ", ".join(f'"{name}": 0, 0.5 or 1' for name in names)
    choice = {
        "type": "object",
        "properties": dict.fromkeys(names, each),
        "required": names,
        "additionalProperties": False,
    }
    return json_form({"grades": choice}, f'{{"reason": "one sentence", "grades": {{{shown}}}}}', read)


def constraints_form() -> Form[Any]:
    """Return the form of a list of at least one text."""

    def read(found: dict[str, Any]) -> list[str] | None:
        items = found["checklist"]
        is_list = isinstance(items, list) and items and all(isinstance(item, str) and item.strip() for item in items)
        return items if is_list else None

    choice = {"type": "array", "items": TEXT, "minItems": 1}
    return json_form({"checklist": choice}, '{"reason": "one sentence", "checklist": ["...", "..."]}', read)
