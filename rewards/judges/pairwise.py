"""Reward from a judge that compares two answers, each of them once in either place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from buffers.scores import Sample, Score, ScoreStatus
from configs.errors import nearest
from rewards.answers import Failure
from rewards.judges.base import Judge, side_by_side
from rewards.judges.verdicts import Form, json_form

__all__ = ["Pairwise", "both_orders", "read_winner"]

TAIL_CHARACTERS = 80
"""At the end of a reply, where its verdict must be."""
OPPONENTS = ("partner", "answer")


@dataclass(frozen=True, kw_only=True)
class Pairwise(Judge):
    """Share of comparisons that an answer wins: 1.0 where it wins in both places, 0.5 where only its place decides.

    Each vote asks twice, with the answers exchanged. A vote of which one half cannot be read is left out (the
    method's own server counts it as 0.5, which nobody said); without any vote the score is abstained.

        component:
          target: judge_pairwise
          against: answer       # each answer against the task's reference; partner: the two of a pair
          votes: 3
          endpoint: {url: "http://127.0.0.1:8000/v1", model: judge, temperature: 0.7, max_tokens: 2048}
        deadline_s: 120

    Source: RM-R1, arXiv:2505.02387, with its chain of rubrics; both orders: arXiv:2306.05685 sec. 3.4.
    """

    against: str = "partner"
    """partner: the other one of two samples of a group. answer: the task's reference answer."""
    votes: int = 1

    scope: ClassVar[str] = "pair"
    own_template: ClassVar[str] = "pairwise"
    fills: ClassVar[frozenset[str]] = frozenset({"question", "first", "second", "form"})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.against not in OPPONENTS:
            raise ValueError(f"against is {self.against!r}, which is not known{nearest(self.against, OPPONENTS)}")
        if self.votes < 1:
            raise ValueError(f"votes is {self.votes}; it must be >= 1; 1 asks twice, once in each order")

    async def judge(self, unit: Sequence[Sample], until: float) -> list[Score]:
        if self.against == "answer":
            return await side_by_side(self._against_answer(sample, until) for sample in unit)
        if len(unit) != 2:
            what = f"group {unit[0].group} has {len(unit)} samples; a pair has 2: set the group size to 2"
            return [self.invalid(Failure(ScoreStatus.ABSTAINED, what))] * len(unit)
        first, second = unit
        score = await self._compare(first.prompt, first.completion, second.completion, until)
        if score.value is None:
            return [score, score]
        return [score, self.ok(1.0 - score.value, score.detail)]

    async def _against_answer(self, sample: Sample, until: float) -> Score:
        if not sample.answer:
            what = f"{sample.id}: the task has no reference answer to compare with"
            return self.invalid(Failure(ScoreStatus.ABSTAINED, what))
        return await self._compare(sample.prompt, sample.completion, sample.answer, until)

    async def _compare(self, question: str, one: str, other: str, until: float) -> Score:
        votes = await side_by_side(self._vote(question, one, other, until, draw) for draw in range(self.votes))
        wins = [vote for vote in votes if not isinstance(vote, Failure)]
        failures = [vote for vote in votes if isinstance(vote, Failure)]
        if not wins:
            return self.invalid(failures[0])
        flips = wins.count(0.5)
        self._counters.update(votes=len(wins), flips=flips, lost_votes=len(failures))
        evidence = f"{len(wins)} of {self.votes} votes counted; in {flips} the place decided"
        return self.ok(sum(wins) / len(wins), evidence)

    async def _vote(self, question: str, one: str, other: str, until: float, draw: int) -> float | Failure:
        form = winner_form(self._asker.settings.structured)
        orders = ((one, other), (other, one))
        quoted = [{"question": question, "first": first, "second": second} for first, second in orders]
        rulings = await side_by_side(self.ask(texts, form, until, draw=draw) for texts in quoted)
        for ruling in rulings:
            if isinstance(ruling, Failure):
                return ruling
        straight, exchanged = (ruling.value for ruling in rulings if not isinstance(ruling, Failure))
        return both_orders(straight, exchanged)


def both_orders(straight: str, exchanged: str) -> float:
    """Return the win of an answer that stood in slot A first, and in slot B then: 1, 0, or 0.5 on disagreement."""
    return ((straight == "A") + (exchanged == "B")) / 2


def winner_form(structured: bool) -> Form[Any]:
    """Return the form of a winner: JSON for servers that enforce it, else the tag of the method."""
    if structured:
        example = '{"reason": "one sentence", "winner": "A or B"}'
        choice = {"type": "string", "enum": ["A", "B"]}
        return json_form(
            {"winner": choice}, example, lambda found: found["winner"] if found["winner"] in ("A", "B") else None
        )
    ask = "End with <answer>[[A]]</answer> or <answer>[[B]]</answer>, and write nothing after it."
    return Form(ask=ask, read=read_winner)


def read_winner(reply: str) -> str | None:
    """Return A or B, None unless exactly one of the two tags is in the last 80 characters.

    Source: lm_as_judge.py of RM-R1.
    """
    tail = reply.rstrip()[-TAIL_CHARACTERS:]
    found = [name for name in "AB" if f"<answer>[[{name}]]</answer>" in tail]
    return found[0] if len(found) == 1 else None
