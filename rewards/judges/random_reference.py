"""Reward from a judge that compares each answer of a group with one of them, drawn at random."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from buffers.scores import Sample, Score, ScoreStatus
from rewards.answers import Failure
from rewards.judges.base import Judge, side_by_side
from rewards.judges.cache import shuffled
from rewards.judges.verdicts import NUMBER, Form, json_form, number

__all__ = ["RandomReference", "is_outlier", "two_scores_form"]

HIGHEST = 10.0


@dataclass(frozen=True, kw_only=True)
class RandomReference(Judge):
    """+1.0 where an answer beats a random one of its group in every vote, else -1.0; the reference itself gets 0.0.

    The values are advantages already. A group whose reference beats, or loses to, nearly all others is abstained.

        component:
          target: judge_random_reference
          votes: 2
          endpoint: {url: "http://127.0.0.1:8000/v1", model: judge, structured: true, concurrency: 32}
        deadline_s: 120

    Source: BRPO of Writing-Zero, arXiv:2506.00103.
    """

    votes: int = 1
    """Of each comparison; the places of the two answers alternate."""
    outlier: float = 0.6
    """Largest magnitude of the mean of the others' rewards; 1 keeps every group."""
    seed: int = 0
    """Of the draw; with the group's name it decides who is the reference, so that scoring again draws the same."""

    scope: ClassVar[str] = "group"
    own_template: ClassVar[str] = "random_reference"
    fills: ClassVar[frozenset[str]] = frozenset({"question", "first", "second", "form"})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.votes < 1:
            raise ValueError(f"votes is {self.votes}; it must be >= 1; 1 is the method's own")
        if not 0 < self.outlier <= 1:
            raise ValueError(f"outlier is {self.outlier}; it must lie in (0, 1]; 0.6 is the method's own")

    async def judge(self, unit: Sequence[Sample], until: float) -> list[Score]:
        if len(unit) < 2:
            what = f"group {unit[0].group} has one sample; comparing needs at least 2"
            return [self.invalid(Failure(ScoreStatus.ABSTAINED, what))]
        drawn = shuffled(len(unit), self.seed, unit[0].group)[0]
        reference = unit[drawn]
        others = [sample for i, sample in enumerate(unit) if i != drawn]
        scores = await side_by_side(self._against(sample, reference, until) for sample in others)
        values = [score.value for score in scores if score.value is not None]
        if values and is_outlier(values, self.outlier):
            what = f"the others' rewards are {values}, so the reference {reference.id} tells nothing"
            return [self.invalid(Failure(ScoreStatus.ABSTAINED, what))] * len(unit)
        # With nobody compared, the reference has no more of a verdict than the others.
        own = self.ok(0.0, "the reference of its group") if values else scores[0]
        return [*scores[:drawn], own, *scores[drawn:]]

    async def _against(self, sample: Sample, reference: Sample, until: float) -> Score:
        votes = await side_by_side(self._beats(sample, reference, until, draw) for draw in range(self.votes))
        for vote in votes:
            if isinstance(vote, Failure):
                return self.invalid(vote)
        return self.ok(
            1.0 if all(votes) else -1.0, f"against {reference.id}: won {sum(map(bool, votes))} of {len(votes)}"
        )

    async def _beats(self, sample: Sample, reference: Sample, until: float, draw: int) -> bool | Failure:
        is_exchanged = draw % 2 == 1
        first, second = (reference, sample) if is_exchanged else (sample, reference)
        quoted = {"question": sample.prompt, "first": first.completion, "second": second.completion}
        ruling = await self.ask(quoted, two_scores_form(), until, draw=draw)
        if isinstance(ruling, Failure):
            return ruling
        own, other = reversed(ruling.value) if is_exchanged else ruling.value
        return bool(own > other)


def is_outlier(rewards: Sequence[float], limit: float) -> bool:
    """Return whether the mean of the others' rewards says that the reference was no fair one."""
    return abs(sum(rewards) / len(rewards)) > limit


def two_scores_form() -> Form[Any]:
    """Return the form of two grades from 0 to 10."""

    def read(found: dict[str, Any]) -> tuple[float, float] | None:
        first, second = (number(found[name], 0.0, HIGHEST) for name in ("score_a", "score_b"))
        return None if first is None or second is None else (first, second)

    example = '{"reason": "one sentence", "score_a": 0.0 to 10.0, "score_b": 0.0 to 10.0}'
    return json_form({"score_a": NUMBER, "score_b": NUMBER}, example, read)
