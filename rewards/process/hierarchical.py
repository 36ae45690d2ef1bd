"""A process reward model that trains beside the policy on the trees that its groups of solutions are.

Dimensions: n samples; K steps of one.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, ClassVar, NamedTuple

from buffers.scores import Sample, Score
from configs.registry import resolve
from rewards.process import AGGREGATES
from rewards.process.fitted import FittedReward
from rewards.process.step_fit import StepFit
from rewards.process.step_judge import StepJudge, mark_of
from rewards.process.steps import step_spans
from rewards.process.trees import Solution, StepExample, Tokens, balanced, compressed, grown, step_examples

__all__ = ["HierarchicalPrm", "Tried", "examples"]


class Tried(NamedTuple):
    """A solution, and whether it came out right."""

    question: Tokens
    steps: tuple[Tokens, ...]
    """At least one."""
    right: bool


@dataclass(kw_only=True)
class HierarchicalPrm(FittedReward[StepFit]):
    """How right each step is, by itself and together with the one before it: the mean of both, -1 to 1.

    The value is an aggregate of the steps. The model is trained beside the policy. The solutions of a question, which
    share the steps that they begin with, are a tree; a step's label is the share of solutions that came out right from
    there. Some crowded nodes give a child to their parent, the two steps as one. It reads the component named in
    `after`: a sample is right from 0.5 on. Version 0 finds all steps worth 0. Abstains where nothing was sampled.

        component: {target: hierarchical_prm, after: [correct], steps: lines}
        credit: steps
        deadline_s: 60.0

    Source: HRM, arXiv:2503.13551, and its construct_hrm_train_data.py; how both scores are fused is left open there.
    """

    place: ClassVar[str] = "hierarchical_prm"

    mark: str = ""
    """Text of the one token that is put behind each step, where it is judged; empty: the token that ends a text."""
    probability: float = 0.5
    """Of a crowded node to give a child away."""
    balance: bool = True
    """Learn, at each number of steps, from as many examples of each label as there are of the rarest one."""
    learning_rate: float = 1e-5
    """For billions of parameters; tiny models want 1e-3."""
    max_grad_norm: float = 1.0
    steps: Any = "lines"
    aggregate: str = "minimum"
    combine: Callable[[Sequence[float]], float] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.probability <= 1:
            raise ValueError(f"probability is {self.probability}; it must lie in [0, 1]; 0.5 is usual")
        self.combine = resolve(AGGREGATES, self.aggregate, f"{self.place}.aggregate")

    def score(self, samples: Sequence[Sample]) -> list[Score]:
        spans = [step_spans(sample, self.split, self.origin.text_of) for sample in samples]
        given = [(s.tokens, [span.end for span in steps]) for s, steps in zip(samples, spans, strict=True) if steps]
        found = iter(self._judged(given))
        return [
            Score(value=self.combine(own := next(found)), span_values=tuple(own), spans=steps, version=self.version)
            if steps
            else self.abstained(sample)
            for sample, steps in zip(samples, spans, strict=True)
        ]

    def lessons(self, samples: Sequence[Sample], scores: Sequence[Score]) -> list[Tried]:
        found = []
        for sample in samples:
            outcome = self.outcome(sample)
            spans = step_spans(sample, self.split, self.origin.text_of)
            if spans and outcome is not None:
                edges = [spans[0].start, *(span.end for span in spans)]
                steps = tuple(sample.tokens[a:b] for a, b in pairwise(edges))
                found.append(Tried(sample.tokens[: edges[0]], steps, outcome >= 0.5))
        return found

    def update(self, lessons: Sequence[Tried]) -> dict[str, float]:
        """Learn from the trees of solutions, see `examples` and `StepFit.fit`."""
        draw = random.Random(f"{self.seed}/{self.version}")
        found = examples(lessons, draw, self.probability)
        metrics = self._fit().fit(balanced(found, draw) if self.balance else found, (self.seed, self.version))
        self.version += 1
        return metrics

    def make_fit(self) -> StepFit:
        return StepFit(
            self.origin,
            mark=self._mark(),
            learning_rate=self.learning_rate,
            batch_size=self.batch_size,
            max_grad_norm=self.max_grad_norm,
        )

    def _judged(self, given: Sequence[tuple[Tokens, list[int]]]) -> list[list[float]]:
        if self.fit is None:
            return [[0.0] * len(ends) for _, ends in given]
        return StepJudge(self.fit.network, mark=self._mark(), difference=True).scores(given, merged=True)

    def _mark(self) -> int:
        tokenizer = self.origin.tokenizer
        return mark_of(tokenizer, self.mark, f"{self.place}.mark") if self.mark else int(tokenizer.eos_token_id)


def examples(lessons: Sequence[Tried], draw: random.Random, probability: float) -> list[StepExample]:
    """Return steps with their labels: of the tree of each question, and what is new in that tree with merged steps."""
    questions: dict[Tokens, list[Solution]] = defaultdict(list)
    for question, steps, right in lessons:
        questions[question].append((steps, right))
    found: list[StepExample] = []
    for question, solutions in questions.items():
        tree = grown(question, solutions)
        fine = list(step_examples(tree))
        known = set(fine)
        found += [*fine, *(one for one in step_examples(compressed(tree, draw, probability)) if one not in known)]
    return found
