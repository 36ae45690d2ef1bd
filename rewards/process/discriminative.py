"""A process reward model that judges each step where it ends."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from buffers.scores import Sample, Score, ScoreStatus
from configs.errors import one_of
from configs.registry import construct, resolve
from rewards.base import Component
from rewards.process import AGGREGATES, STEPS
from rewards.process.hosted import HostedModel
from rewards.process.step_head import load_head
from rewards.process.step_judge import StepJudge, mark_of
from rewards.process.steps import Splitter, step_spans

__all__ = ["DiscriminativePrm"]

PLACE = "discriminative_prm"


@dataclass(kw_only=True)
class DiscriminativePrm(Component):
    """How right a token-classification model finds each step; the value is an aggregate of the steps.

    The model reads the policy's tokens, so it shares its tokenizer. Abstains where nothing was sampled.

        component: {target: discriminative_prm, model: models/prm, steps: lines, scale: difference}
        credit: steps
        transforms: [{target: step_minimum}]

    Source: arXiv:2305.20050 sec. 2.6; scores in [-1, 1] as in PURE, arXiv:2504.15275; merged steps from HRM,
    arXiv:2503.13551.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"tokens"})

    model: str
    """Folder of the network, with step_head.safetensors beside it."""
    steps: Any = "lines"
    """lines | tags | turns | tokens | {target: pattern, pattern: ...}"""
    mark: str = ""
    """Text of the one token that is put behind each step, where the model was trained to judge; empty: none."""
    scale: str = "probability"
    """probability: P(right), 0 to 1. difference: P(right) - P(wrong), -1 to 1."""
    merged: bool = False
    """Average each step's score with that of the step and the one before it read as one; needs `mark`."""
    aggregate: str = "minimum"
    when: str = "arrival"
    device: str = "cpu"
    split: Splitter = field(init=False, repr=False)
    combine: Callable[[Sequence[float]], float] = field(init=False, repr=False)
    hosted: HostedModel = field(init=False, repr=False)

    def __post_init__(self) -> None:
        one_of("scale", self.scale, ("probability", "difference"))
        if self.merged and not self.mark:
            raise ValueError("merged is true without a mark; two steps are one where no mark parts them; set mark")
        self.split = construct(STEPS, self.steps, f"{PLACE}.steps")
        self.combine = resolve(AGGREGATES, self.aggregate, f"{PLACE}.aggregate")
        self.hosted = HostedModel(self.model, self.device)
        self._opening = threading.Lock()
        self._judge: StepJudge | None = None

    def score(self, samples: Sequence[Sample]) -> list[Score]:
        spans = [step_spans(sample, self.split, self.hosted.text_of) for sample in samples]
        given = [(s.tokens, [span.end for span in steps]) for s, steps in zip(samples, spans, strict=True) if steps]
        found = iter(self._opened().scores(given, merged=self.merged) if given else ())
        return [
            Score(value=self.combine(values := next(found)), span_values=tuple(values), spans=steps)
            if steps
            else Score.invalid(ScoreStatus.ABSTAINED, f"{sample.id} has no sampled token")
            for sample, steps in zip(samples, spans, strict=True)
        ]

    def _opened(self) -> StepJudge:
        with self._opening:
            if self._judge is None:
                mark = mark_of(self.hosted.tokenizer, self.mark, f"{PLACE}.mark") if self.mark else None
                head = load_head(self.hosted.network, self.model)
                self._judge = StepJudge(head, mark=mark, difference=self.scale == "difference")
            return self._judge
