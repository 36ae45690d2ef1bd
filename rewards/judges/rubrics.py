"""Rubrics that a meta judge rewrites from what they let pass.

each of n graded answers --analyse--> what the grade missed --refine--> a better rubric --.
                                                                                          merge --> the next one
... --------------------------------------------------------------------------------------'
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rewards.answers import Failure
from rewards.judges.asking import Asker
from rewards.judges.base import side_by_side
from rewards.judges.prompts import Quotation, load_template
from rewards.judges.verdicts import NUMBER, TEXT, Form, json_form, number

__all__ = ["Graded", "Rubric", "RubricWriter"]

MAX_CHARACTERS = 20_000
"""Of a rubric; a longer one is no improvement."""
HIGHEST = 1000.0


@dataclass(frozen=True, kw_only=True)
class Rubric:
    """What answers are graded by."""

    text: str
    high: float
    """Highest grade that it allows; the lowest is 0."""
    version: int = 0
    """0: the one that the user wrote."""


@dataclass(frozen=True, kw_only=True)
class Graded:
    """An answer, and the grade it got."""

    prompt: str
    completion: str
    answer: str = ""
    value: float


class RubricWriter:
    """Asks a meta judge for the next rubric.

    Source: meta-analysis, meta-refinement and meta-merging of MPO, arXiv:2504.20157.
    """

    def __init__(self, task: str) -> None:
        """Read the templates; `task` says what the policy is to learn, in words."""
        self._task = task
        needed = frozenset({"task", "rubric", "high"})
        self._analyse = load_template("rubric_analyse", needed | {"question", "answer", "grade"})
        self._refine = load_template("rubric_refine", needed | {"question", "answer", "grade", "analysis", "form"})
        self._merge = load_template("rubric_merge", needed | {"rubrics", "form"})

    async def revise(
        self, asker: Asker, rubric: Rubric, graded: Sequence[Graded], deadline_s: float
    ) -> Rubric | Failure:
        """Return the rubric that follows, or why it stays: a failure of the last of three steps, or of all samples."""
        until = asyncio.get_running_loop().time() + deadline_s
        terms = {"task": self._task, "rubric": rubric.text, "high": f"{rubric.high:g}"}
        found = await side_by_side(self._refined(asker, terms, one, until) for one in graded)
        better = [one for one in found if not isinstance(one, Failure)]
        if not better:
            return next(one for one in found if isinstance(one, Failure))
        form = rubric_form()
        texts = {str(place): f"(highest grade {one.high:g})\n{one.text}" for place, one in enumerate(better, 1)}
        prompt = self._merge.fill({"rubrics": texts}, {**terms, "form": form.ask})
        merged = await asker.ask(prompt, form, until)
        if isinstance(merged, Failure):
            return merged
        return Rubric(text=merged.value.text, high=merged.value.high, version=rubric.version + 1)

    async def _refined(self, asker: Asker, terms: Mapping[str, str], graded: Graded, until: float) -> Rubric | Failure:
        quoted: dict[str, Quotation] = {
            "question": graded.prompt,
            "reference": graded.answer or "(none)",
            "answer": graded.completion,
        }
        terms = {**terms, "grade": f"{graded.value:g}"}
        analysis = await asker.ask(self._analyse.fill(quoted, terms), FREE_TEXT, until)
        if isinstance(analysis, Failure):
            return analysis
        form = rubric_form()
        prompt = self._refine.fill({**quoted, "analysis": analysis.value}, {**terms, "form": form.ask})
        refined = await asker.ask(prompt, form, until)
        return refined if isinstance(refined, Failure) else refined.value


FREE_TEXT: Form[str] = Form(ask="", read=lambda reply: reply.strip() or None)


def rubric_form() -> Form[Any]:
    """Return the form of a rubric with the highest grade that it allows."""

    def read(found: dict[str, Any]) -> Rubric | None:
        text, high = found["rubric"], number(found["highest_grade"], 1.0, HIGHEST)
        is_text = isinstance(text, str) and 0 < len(text.strip()) <= MAX_CHARACTERS
        return Rubric(text=text, high=high) if is_text and high is not None else None

    example = '{"reason": "one sentence", "rubric": "the whole text of the rubric", "highest_grade": a number}'
    return json_form({"rubric": TEXT, "highest_grade": NUMBER}, example, read)
