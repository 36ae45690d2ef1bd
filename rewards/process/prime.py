"""A process reward model that trains beside the policy, from outcome labels alone.

Dimensions: n samples; T tokens of one, K steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from buffers.scores import Sample, Score
from rewards.process.fitted import FittedReward
from rewards.process.implicit import span_sums
from rewards.process.outcome_fit import Lesson, OutcomeFit
from rewards.process.steps import sampled_turns, step_spans

__all__ = ["Prime"]


@dataclass(kw_only=True)
class Prime(FittedReward[OutcomeFit]):
    """Log-ratio of a model to its reference, per step; the model is trained beside the policy, on outcomes.

    Both begin as the same model, so version 0 finds all steps worth 0. The value is beta times the sum of the
    log-ratios: the log-odds that the sample is right. It reads the component named in `after`, whose value, a
    probability, is the label. Abstains where nothing was sampled.

    Step rewards have no beta and grow while it learns: `process_return` divides by the largest return of a batch.

        component: {target: prime, after: [correct]}
        credit: steps

    Source: PRIME, arXiv:2502.01456 sec. 3 (eq. 3, 5, 6) and its released trainer (update "after").
    """

    place: ClassVar[str] = "prime"

    beta: float = 0.05
    learning_rate: float = 1e-6
    """The paper's, for 7 B parameters; tiny models want 1e-3."""
    max_grad_norm: float = 10.0
    steps: Any = "tokens"

    def score(self, samples: Sequence[Sample]) -> list[Score]:
        given = [sample for sample in samples if sampled_turns(sample)]
        ratios = self._ratios([sample.tokens for sample in given])
        spans = [step_spans(sample, self.split, self.origin.text_of) for sample in given]
        steps = [span_sums(row, places) for row, places in zip(ratios, spans, strict=True)]
        found = {
            sample.id: Score(value=self.beta * sum(values), span_values=values, spans=places, version=self.version)
            for sample, values, places in zip(given, map(tuple, steps), spans, strict=True)
        }
        return [found.get(sample.id) or self.abstained(sample) for sample in samples]

    def lessons(self, samples: Sequence[Sample], scores: Sequence[Score]) -> list[Lesson]:
        outcomes = [(s, self.outcome(s)) for s in samples if sampled_turns(s)]
        return [Lesson(s.tokens, tuple(sampled_turns(s)), value) for s, value in outcomes if value is not None]

    def update(self, lessons: Sequence[Lesson]) -> dict[str, float]:
        """Learn, see `OutcomeFit.fit`.

        Raises:
          ValueError: an outcome is no probability.
        """
        if odd := [lesson.outcome for lesson in lessons if not 0 <= lesson.outcome <= 1]:
            raise ValueError(f"prime.after: {self.after[0]!r} gave {odd[0]}; outcomes must lie in [0, 1]; name another")
        metrics = self._fit().fit(lessons, (self.seed, self.version))
        self.version += 1
        return metrics

    def make_fit(self) -> OutcomeFit:
        return OutcomeFit(
            self.origin,
            beta=self.beta,
            learning_rate=self.learning_rate,
            batch_size=self.batch_size,
            max_grad_norm=self.max_grad_norm,
        )

    def _ratios(self, sequences: Sequence[Sequence[int]]) -> list[Tensor]:
        if self.fit is None:  # version 0 is its own reference
            return [torch.zeros(len(tokens)) for tokens in sequences]
        return self.fit.ratios(sequences)
