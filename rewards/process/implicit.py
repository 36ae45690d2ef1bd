"""Process rewards without process labels: how much likelier a trained model finds each token than its reference.

Dimensions: n samples; T tokens of one, K steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor

from buffers.scores import Sample, Score, ScoreStatus
from buffers.trajectory import Span
from configs.errors import one_of
from configs.registry import construct, resolve
from rewards.base import Component
from rewards.process import AGGREGATES, STEPS
from rewards.process.hosted import HostedModel
from rewards.process.steps import Splitter, step_spans
from rewards.reference import Reference

__all__ = ["ImplicitPrm", "span_sums"]

PLACE = "implicit_prm"


@dataclass(kw_only=True)
class ImplicitPrm(Component):
    """beta times the log-ratio of two models, summed over each step; the value is an aggregate of the steps.

    Both models read the policy's tokens, so they share its tokenizer. Abstains where nothing was sampled.

        component: {target: implicit_prm, model: models/prm, reference: models/sft, steps: lines}
        credit: steps

    Source: ImplicitPRM, arXiv:2412.01981 sec. 3.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"tokens"})

    model: str
    """Folder of the model that was trained on outcomes."""
    reference: str | Reference
    """Folder of the model that this one began as; left out: the run's policy before its first update."""
    beta: float = 0.05
    steps: Any = "lines"
    """lines | tags | turns | tokens | {target: pattern, pattern: ...}"""
    rewards: str = "single"
    """single: of each step alone. accumulated: of everything up to its end."""
    aggregate: str = "minimum"
    when: str = "arrival"
    device: str = "cpu"
    split: Splitter = field(init=False, repr=False)
    combine: Callable[[Sequence[float]], float] = field(init=False, repr=False)
    models: tuple[HostedModel, HostedModel] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        one_of("rewards", self.rewards, ("single", "accumulated"))
        self.split = construct(STEPS, self.steps, f"{PLACE}.steps")
        self.combine = resolve(AGGREGATES, self.aggregate, f"{PLACE}.aggregate")
        began = self.reference
        origin = began.model if isinstance(began, Reference) else HostedModel(began, self.device)
        self.models = HostedModel(self.model, self.device), origin

    def score(self, samples: Sequence[Sample]) -> list[Score]:
        trained, reference = (model.logprobs([sample.tokens for sample in samples]) for model in self.models)
        return [self._score(s, a - b) for s, a, b in zip(samples, trained, reference, strict=True)]

    def _score(self, sample: Sample, ratios: Tensor) -> Score:
        spans = step_spans(sample, self.split, self.models[0].text_of)
        if not spans:
            return Score.invalid(ScoreStatus.ABSTAINED, f"{sample.id} has no sampled token")
        values = [self.beta * q for q in span_sums(ratios, spans)]
        if self.rewards == "accumulated":
            values = [sum(values[: k + 1]) for k in range(len(values))]
        return Score(value=self.combine(values), span_values=tuple(values), spans=spans)


def span_sums(ratios: Tensor, spans: Sequence[Span]) -> list[float]:
    """Return [K] sums of ratios [T] over spans: q_end(k) - q_end(k - 1), where spans follow each other."""
    return [float(ratios[span.start : span.end].double().sum()) for span in spans]
