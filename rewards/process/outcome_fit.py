"""A language model fitted to outcomes: beta times its log-ratio to what it began as is the log-odds of being right.

Dimensions: n samples; T tokens of one.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from rewards.process.fit import Fit
from rewards.process.hosted import HostedModel, sequence_logprobs

__all__ = ["Lesson", "OutcomeFit"]


class Lesson(NamedTuple):
    """A finished sample and whether it was right."""

    tokens: tuple[int, ...]
    turns: tuple[tuple[int, int], ...]
    """Stretches of sampled tokens; at least one."""
    outcome: float
    """0 to 1"""


class OutcomeFit(Fit[Any, Lesson]):
    """Trains a copy of `origin` by maximum likelihood of outcomes.

    Source: arXiv:2412.01981 eq. 5; the released PRIME trainer takes it with gradient norm 10.
    """

    def __init__(
        self, origin: HostedModel, *, beta: float, learning_rate: float, batch_size: int, max_grad_norm: float
    ) -> None:
        network = copy.deepcopy(origin.network)
        super().__init__(network, learning_rate=learning_rate, batch_size=batch_size, max_grad_norm=max_grad_norm)
        self._origin, self._beta = origin, beta

    def ratios(self, sequences: Sequence[Sequence[int]]) -> list[Tensor]:
        """Return of each sequence [T] log-ratios of its tokens, nats; without gradient."""
        found: list[Tensor] = []
        for at in range(0, len(sequences), self.batch_size):
            with torch.no_grad():
                found += self._ratios(sequences[at : at + self.batch_size])
        return found

    def fit(self, lessons: Sequence[Lesson], key: tuple[int, int]) -> dict[str, float]:
        """Go over lessons once, in an order that `key` draws.

        Returns:
          loss (nats), and outcome_accuracy, how often a positive reward said what is right, both before each step.
        """
        losses, right = [], []
        for batch in self.minibatches(lessons, key):
            rewards, outcomes = self._rewards(batch), torch.tensor([lesson.outcome for lesson in batch])
            losses.append(self.descend(F.binary_cross_entropy_with_logits(rewards, outcomes)))
            right.append(((rewards > 0) == (outcomes > 0.5)).double().mean())
        return {"loss": float(torch.stack(losses).mean()), "outcome_accuracy": float(torch.stack(right).mean())}

    def _rewards(self, batch: Sequence[Lesson]) -> Tensor:
        """Return [n] beta times the sum of the log-ratios of sampled tokens, with gradient."""
        ratios = zip(self._ratios([lesson.tokens for lesson in batch]), batch, strict=True)
        return self._beta * torch.stack([torch.cat([row[a:b] for a, b in x.turns]).sum() for row, x in ratios])

    def _ratios(self, sequences: Sequence[Sequence[int]]) -> list[Tensor]:
        before = self._origin.logprobs(sequences)
        now = sequence_logprobs(self.network, sequences).cpu()
        return [row[: len(old)] - old for row, old in zip(now, before, strict=True)]
