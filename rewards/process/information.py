"""How much likelier each turn makes the reference answer, to the policy itself."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from buffers.scores import Sample, Score, ScoreStatus
from buffers.trajectory import Span
from configs.registry import construct
from learners.models.tokenizer import encode
from rewards.base import Component
from rewards.policy import Policy
from rewards.process import STEPS
from rewards.process.hosted import HostedModel
from rewards.process.steps import Splitter, step_spans

__all__ = ["InformationGain", "gains"]


@dataclass(kw_only=True)
class InformationGain(Component):
    """Gain in the mean probability of the reference answer's tokens from before a step to before the next one.

    The policy's newest weights say how probable. The last step has no reward here, since the outcome judges it.
    The value is the sum. Abstains without a reference answer, or where nothing was sampled.

        component: {target: information_gain, tokenizer: models/policy, before: "<answer>"}
        credit: steps

    Source: IGPO, arXiv:2510.14967 sec. 3.2.
    """

    scope: ClassVar[str] = "group"  # one call, one version
    needs: ClassVar[frozenset[str]] = frozenset({"tokens", "policy"})

    tokenizer: str
    """Folder of the policy's tokenizer, usually `model.path`."""
    before: str = ""
    """What stands between a history and the answer, as the policy would write it, for instance `<answer>`."""
    steps: Any = "turns"
    """turns | lines | tags | {target: pattern, pattern: ...}"""
    when: str = "arrival"
    policy: Policy
    split: Splitter = field(init=False, repr=False)
    texts: HostedModel = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.split = construct(STEPS, self.steps, "information_gain.steps")
        self.texts = HostedModel(self.tokenizer)

    async def score(self, samples: Sequence[Sample]) -> list[Score]:  # type: ignore[override]
        spans = [step_spans(sample, self.split, self.texts.text_of) if sample.answer else () for sample in samples]
        answers = [len(encode(self.texts.tokenizer, sample.answer)) for sample in samples]
        asked = [self._histories(sample, places) for sample, places in zip(samples, spans, strict=True)]
        if not any(asked):
            return [_abstained(sample) for sample in samples]
        version, logprobs = await self.policy.logprobs([sequence for histories in asked for sequence in histories])
        ends = list(accumulate(map(len, asked), initial=0))
        parts = [logprobs[start:end] for start, end in pairwise(ends)]
        rows = zip(samples, spans, parts, answers, strict=True)
        return [_score(places, part, answer, version) if places else _abstained(s) for s, places, part, answer in rows]

    def _histories(self, sample: Sample, spans: Sequence[Span]) -> list[list[int]]:
        """Return of each step everything before it, with the reference answer behind."""
        behind = [*encode(self.texts.tokenizer, self.before), *encode(self.texts.tokenizer, sample.answer)]
        return [[*sample.tokens[: span.start], *behind] for span in spans]


def gains(means: Sequence[float]) -> list[float]:
    """Return [K - 1] exp(b_(k+1)) - exp(b_k) of mean log-probabilities [K], nats. Source: arXiv:2510.14967 eq. 3."""
    return [math.exp(after) - math.exp(before) for before, after in pairwise(means)]


def _score(spans: Sequence[Span], logprobs: Sequence[NDArray[np.float32]], answer: int, version: int) -> Score:
    found = gains([float(row[-answer:].mean(dtype=np.float64)) for row in logprobs])
    return Score(value=math.fsum(found), span_values=tuple(found), spans=tuple(spans[:-1]), version=version)


def _abstained(sample: Sample) -> Score:
    missing = "no sampled token" if sample.answer else "no reference answer"
    return Score.invalid(ScoreStatus.ABSTAINED, f"{sample.id} has {missing}")
