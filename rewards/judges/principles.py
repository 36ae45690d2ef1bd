"""Reward from a judge that follows principles which are stated with each question."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from buffers.scores import Sample, Score
from rewards.answers import Failure
from rewards.judges.base import Judge
from rewards.judges.cache import content_key
from rewards.judges.listwise import is_order_of, masked
from rewards.judges.pointwise import share
from rewards.judges.prompts import Quotation
from rewards.judges.verdicts import NUMBER, TEXT, Form, json_form, number

__all__ = ["Principles", "ranking_accuracy", "scores_form"]

LOWEST, HIGHEST = 1.0, 5.0


@dataclass(frozen=True, kw_only=True)
class Principles(Judge):
    """A grade by stated principles of each answer of a group, as a share of the scale from 1 to 5.

    Principles come from the task (`metadata: {principles: [...]}`), or else from a bank: of each group some are
    drawn, and some of those are replaced by their negation, so that a judge cannot get by without reading them. To
    the principles of the bank come those of the task's `metadata: {type: ...}`. The judge sees the answers under
    numbers and in a shuffled order, and a reply whose ranking contradicts its grades is abstained.

        component:
          target: judge_principles
          principles:
            - {text: "Short answers are better.", negation: "Long answers are better."}
            - {text: "Answers that admit what is not known are better."}
          by_type: {red_team: [{text: "Answers that refuse harm are better."}]}
          endpoint: {url: "http://127.0.0.1:8000/v1", model: judge, structured: true, max_tokens: 2048}
        deadline_s: 120

    Source: RewardAnything, arXiv:2506.03637; the bank with its negations: SALMON, arXiv:2310.05910.
    """

    principles: Sequence[Mapping[str, str]] = ()
    """[{text, negation: the opposite principle, where there is one}]"""
    by_type: Mapping[str, Sequence[Mapping[str, str]]] = field(default_factory=dict)
    drawn: int | None = None
    """Principles of a group; None: all of them."""
    negated: float = 0.0
    """Share of the drawn principles with a negation that are replaced by it."""
    seed: int = 0

    scope: ClassVar[str] = "group"
    own_template: ClassVar[str] = "principles"
    fills: ClassVar[frozenset[str]] = frozenset({"principles", "question", "responses", "form"})

    def __post_init__(self) -> None:
        super().__post_init__()
        for principle in [*self.principles, *(one for bank in self.by_type.values() for one in bank)]:
            if not principle.get("text") or principle.keys() - {"text", "negation"}:
                raise ValueError(f"a principle is {dict(principle)}; it must have a text, and may have a negation")
        if not 0 <= self.negated <= 1:
            raise ValueError(f"negated is {self.negated}; it must lie in [0, 1]; 0 negates none")
        if self.drawn is not None and self.drawn < 1:
            raise ValueError(f"drawn is {self.drawn}; it must be >= 1; leave it out to state all principles")

    async def judge(self, unit: Sequence[Sample], until: float) -> list[Score]:
        stated = self.stated(unit[0])
        names = masked(unit)
        texts = {name: unit[i].completion for name, i in names.items()}
        listed = "\n".join(f"- {text}" for text in stated) or "- Answers that help more are better."
        quoted: dict[str, Quotation] = {"question": unit[0].prompt, "responses": texts}
        ruling = await self.ask(quoted, scores_form(list(names)), until, principles=listed)
        if isinstance(ruling, Failure):
            return [self.invalid(ruling)] * len(unit)
        grades = {i: ruling.value[name] for name, i in names.items()}
        evidence = f"by {stated}: {ruling.reply}"
        return [self.ok(share(grades[i], LOWEST, HIGHEST), evidence) for i in range(len(unit))]

    def stated(self, sample: Sample) -> list[str]:
        """Return the principles by which a sample's group is judged; the same whenever it is asked."""
        if own := sample.metadata.get("principles"):
            return [own] if isinstance(own, str) else [str(text) for text in own]
        rng = random.Random(content_key(self.seed, sample.group))
        bank = [*self.principles, *self.by_type.get(str(sample.metadata.get("type")), ())]
        drawn = bank if self.drawn is None else rng.sample(bank, min(self.drawn, len(bank)))
        return [one["negation"] if "negation" in one and rng.random() < self.negated else one["text"] for one in drawn]


def scores_form(names: Sequence[str]) -> Form[Any]:
    """Return the form of a grade for every name and a ranking of the names that agrees with the grades."""

    def read(found: dict[str, Any]) -> dict[str, float] | None:
        scores, ranking = found["scores"], found["best-to-worst"]
        if not isinstance(scores, dict) or scores.keys() != set(names) or not is_order_of(ranking, names):
            return None
        grades = {name: number(scores[name], LOWEST, HIGHEST) for name in names}
        if any(grade is None for grade in grades.values()):
            return None
        known = {name: grade for name, grade in grades.items() if grade is not None}
        ranked = [known[name] for name in ranking]
        return known if ranked == sorted(ranked, reverse=True) else None

    each = {"type": "object", "properties": dict.fromkeys(names, NUMBER), "required": list(names)}
    choice = {"type": "array", "items": {**TEXT, "enum": list(names)}, "minItems": len(names), "maxItems": len(names)}
    shown = ", ".join(f'"{name}": 1 to 5' for name in names)
    example = f'{{"reason": "one sentence", "scores": {{{shown}}}, "best-to-worst": [the numbers as strings]}}'
    return json_form({"scores": {**each, "additionalProperties": False}, "best-to-worst": choice}, example, read)


def ranking_accuracy(gold: Mapping[str, float], given: Mapping[str, float]) -> float:
    """Return how well grades order what gold grades order, in [0, 1]: for benchmarks of judges, and to train one.

    Each pair that gold tells apart weighs 1 + |difference|; reversing it costs all of that, a tie half.

    Source: accuracy reward in processing.py of RewardAnything, arXiv:2506.03637.
    """
    names = sorted(gold)
    total = penalty = 0.0
    for i, one in enumerate(names):
        for other in names[i + 1 :]:
            apart = gold[one] - gold[other]
            weight = 1.0 + abs(apart)
            total += weight
            agreement = apart * (given[one] - given[other])
            penalty += weight * (agreement < 0) + weight / 2 * (agreement == 0 and apart != 0)
    return max(0.0, 1.0 - penalty / total) if total else 1.0
