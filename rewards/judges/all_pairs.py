"""Reward from a judge that compares every two answers of a group: an advantage, without any grade."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, ClassVar

from buffers.scores import Sample, Score, ScoreStatus
from rewards.answers import Failure
from rewards.judges.base import Judge, side_by_side
from rewards.judges.verdicts import Form, json_form

__all__ = ["AllPairs", "complete_members", "group_advantage", "margin_form"]

EPSILON = 1e-6
STRONGEST = 3


@dataclass(frozen=True, kw_only=True)
class AllPairs(Judge):
    """An answer's advantage in its group, from how much better it is than each other one; G (G - 1) / 2 questions.

    A comparison without a verdict is never taken as a tie: as few members as possible are left out (abstained),
    until every two of the others were compared. The value is an advantage already, standardised in its group.

        component:
          target: judge_all_pairs
          endpoint: {url: "http://127.0.0.1:8000/v1", model: judge, structured: true, concurrency: 32}
        deadline_s: 120

    Source: Think-RM, arXiv:2505.16265, and its core_algos.py.
    """

    scope: ClassVar[str] = "group"
    own_template: ClassVar[str] = "all_pairs"
    fills: ClassVar[frozenset[str]] = frozenset({"question", "first", "second", "form"})

    async def judge(self, unit: Sequence[Sample], until: float) -> list[Score]:
        size = len(unit)
        pairs = list(combinations(range(size), 2))
        answers = await side_by_side(self._margin(unit[i], unit[j], until) for i, j in pairs)
        margins: dict[tuple[int, int], float] = {}
        reasons: dict[int, Failure] = {}
        for (i, j), answer in zip(pairs, answers, strict=True):
            if isinstance(answer, Failure):
                reasons |= {i: answer, j: answer}
            else:
                margins |= {(i, j): answer, (j, i): -answer}
        kept = complete_members(size, margins)
        if len(kept) < 2:
            alone = Failure(ScoreStatus.ABSTAINED, f"group {unit[0].group}: nobody is left to be compared with")
            return [self.invalid(reasons.get(i, alone)) for i in range(size)]
        values = group_advantage([[margins.get((i, j), 0.0) for j in kept] for i in kept])
        of = dict(zip(kept, values, strict=True))
        evidence = f"compared with {len(kept) - 1} of {size - 1} others"
        return [self.ok(of[i], evidence) if i in of else self.invalid(reasons[i]) for i in range(size)]

    async def _margin(self, one: Sample, other: Sample, until: float) -> float | Failure:
        quoted = {"question": one.prompt, "first": one.completion, "second": other.completion}
        ruling = await self.ask(quoted, margin_form(), until)
        return ruling if isinstance(ruling, Failure) else -ruling.value  # asked for second minus first


def group_advantage(margins: Sequence[Sequence[float]]) -> list[float]:
    """Return the advantage of each member of a group, reward units.

    Args:
      margins: [G, G] antisymmetric; [i][j]: how much better i is than j. Where it is r_i - r_j, the result is
        (r - mean) / std with G - 1 degrees of freedom.

    Source: compute_pairwise_advantage in core_algos.py of Think-RM, arXiv:2505.16265.
    """
    size = len(margins)
    squares = sum(margin**2 for row in margins for margin in row)
    scale = math.sqrt(squares / (2 * size * (size - 1)) + EPSILON)
    return [sum(row) / size / scale for row in margins]


def complete_members(size: int, known: dict[tuple[int, int], float]) -> list[int]:
    """Return members of which every two were compared, by leaving out who lacks most comparisons, again and again."""
    kept = list(range(size))
    while len(kept) > 1:
        lacking = {i: sum(i != j and (i, j) not in known for j in kept) for i in kept}
        worst = max(kept, key=lambda i: lacking[i])
        if not lacking[worst]:
            break
        kept.remove(worst)
    return kept


def margin_form() -> Form[Any]:
    """Return the form of a whole number from -3 to 3 without 0: how much better the second answer is."""

    def read(found: dict[str, Any]) -> float | None:
        margin = found["margin"]
        is_one = isinstance(margin, int) and not isinstance(margin, bool) and 1 <= abs(margin) <= STRONGEST
        return float(margin) if is_one else None

    choice = {"type": "integer", "enum": [-3, -2, -1, 1, 2, 3]}
    return json_form({"margin": choice}, '{"reason": "one sentence", "margin": one of -3, -2, -1, 1, 2, 3}', read)
