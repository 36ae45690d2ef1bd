"""Process rewards by trying: how much a step raises the chance that another policy gets it right from there."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, ClassVar

from buffers.scores import Sample, Score, ScoreStatus
from configs.registry import construct
from rewards import REWARDS
from rewards.base import Component
from rewards.process import STEPS
from rewards.process.continuations import continuations
from rewards.process.hosted import HostedModel
from rewards.process.steps import Splitter, step_spans

__all__ = ["ProverProgress", "best_of"]

PLACE = "prover_progress"


@dataclass(kw_only=True)
class ProverProgress(Component):
    """Q(prefix with the step) - Q(prefix before it), Q the chance that the best of K prover samples is right.

    The prover is a policy of its own, in a model folder, that shares the tokenizer; it continues each prefix
    `rollouts` times, and the verifier says what is right. A finished answer is verified as it is. The value is
    the sum of the steps, Q at the end minus Q at the start. Costs (steps + 1) x rollouts x max_tokens tokens a
    sample, so raise the component's deadline_s.

        component: {target: prover_progress, model: models/prover, verifier: numeric, rollouts: 8}
        credit: steps
        deadline_s: 120.0

    Source: PAV, arXiv:2410.08146 sec. 3 and 4 (alpha there is the component's weight).
    """

    needs: ClassVar[frozenset[str]] = frozenset({"tokens"})

    model: str
    """Folder of the prover; in the paper a policy neither much better nor worse than the one that learns."""
    verifier: Any
    """A reward without other needs that gives probabilities, for instance numeric."""
    rollouts: int = 8
    best_of: int = 4
    """K"""
    max_tokens: int = 64
    temperature: float = 1.0
    steps: Any = "lines"
    """lines | tags | turns | tokens | {target: pattern, pattern: ...}"""
    when: str = "arrival"
    device: str = "cpu"
    seed: int = 0
    split: Splitter = field(init=False, repr=False)
    prover: HostedModel = field(init=False, repr=False)
    judge: Component = field(init=False, repr=False)

    def __post_init__(self) -> None:
        for name in ("rollouts", "best_of", "max_tokens", "temperature"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be > 0; see the class for usual values")
        self.split = construct(STEPS, self.steps, f"{PLACE}.steps")
        self.judge = construct(REWARDS, self.verifier, f"{PLACE}.verifier")
        if inspect.iscoroutinefunction(self.judge.score) or self.judge.scope != "sample":
            raise ValueError(f"verifier is {self.verifier!r}; it must judge single samples at once; try numeric")
        self.prover = HostedModel(self.model, self.device)

    def score(self, samples: Sequence[Sample]) -> list[Score]:
        known: dict[tuple[int, ...], float | Score] = {}
        return [self._score(sample, known) for sample in samples]

    def _score(self, sample: Sample, known: dict[tuple[int, ...], float | Score]) -> Score:
        spans = step_spans(sample, self.split, self.prover.text_of)
        if not spans:
            return Score.invalid(ScoreStatus.ABSTAINED, f"{sample.id} has no sampled token")
        chances: list[float] = []
        for end in (spans[0].start, *(span.end for span in spans)):
            prefix = sample.tokens[:end]
            if prefix not in known:
                known[prefix] = self._chance(sample, prefix, spans[0].start)
            if isinstance(found := known[prefix], Score):
                return found
            chances.append(found)
        gains = tuple(after - before for before, after in pairwise(chances))
        return Score(value=chances[-1] - chances[0], span_values=gains, spans=spans)

    def _chance(self, sample: Sample, prefix: tuple[int, ...], prompt: int) -> float | Score:
        """Return Q of a prefix, or the score that says why there is none."""
        tokenizer = self.prover.tokenizer
        if prefix[-1] == tokenizer.eos_token_id:
            answers = [list(prefix)]
        else:
            settings = {"max_tokens": self.max_tokens, "temperature": self.temperature, "seed": self.seed}
            written = continuations(self.prover, prefix, count=self.rollouts, **settings)  # type: ignore[arg-type]
            answers = [[*prefix, *more] for more in written]
        texts = [tokenizer.decode(tokens[prompt:], skip_special_tokens=True) for tokens in answers]
        scores = self.judge.score([replace(sample, completion=text) for text in texts])
        if invalid := [score for score in scores if score.value is None]:
            return invalid[0]
        chance = sum(score.value or 0.0 for score in scores) / len(scores)
        return chance if prefix[-1] == tokenizer.eos_token_id else best_of(chance, self.best_of)


def best_of(chance: float, count: int) -> float:
    """Return the probability that one of `count` independent tries with this chance is right: 1 - (1 - p)^K.

    Source: arXiv:2410.08146 sec. 4 (best-of-K provers).
    """
    return 1.0 - (1.0 - chance) ** count
