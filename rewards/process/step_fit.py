"""A step head fitted to how often solutions came out right from a step on.

Dimensions: n examples.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rewards.process.fit import Fit
from rewards.process.hosted import HostedModel
from rewards.process.step_head import StepHead, marked
from rewards.process.trees import StepExample

__all__ = ["StepFit"]


class StepFit(Fit[StepHead, StepExample]):
    """Trains a copy of `origin` with a head that begins by finding all steps as likely right as wrong."""

    def __init__(
        self, origin: HostedModel, *, mark: int, learning_rate: float, batch_size: int, max_grad_norm: float
    ) -> None:
        head = StepHead(copy.deepcopy(origin.network))
        for parameter in head.head.parameters():
            nn.init.zeros_(parameter)
        super().__init__(head, learning_rate=learning_rate, batch_size=batch_size, max_grad_norm=max_grad_norm)
        self._mark = mark

    def fit(self, examples: Sequence[StepExample], key: tuple[int, int]) -> dict[str, float]:
        """Go over examples once, in an order that `key` draws; return the loss before each step, nats, as a mean.

        Source: soft labels, the share of right leaves, as in construct_hrm_train_data.py of HRM, arXiv:2503.13551.
        """
        losses = []
        for batch in self.minibatches(examples, key):
            right = torch.tensor([example.score for example in batch])
            losses.append(self.descend(F.cross_entropy(self._logits(batch), torch.stack([1 - right, right], dim=1))))
        return {"loss": float(torch.stack(losses).mean()), "examples": len(examples)} if losses else {"examples": 0}

    def _logits(self, batch: Sequence[StepExample]) -> Tensor:
        """Return [n, 2] logits of the last step of each example."""
        cut = [_marked(example, self._mark) for example in batch]
        return self.network([tokens for tokens, _ in cut], [places[-1:] for _, places in cut]).cpu()


def _marked(example: StepExample, mark: int) -> tuple[list[int], list[int]]:
    tokens = [token for part in (example.question, *example.steps) for token in part]
    ends = list(accumulate((len(step) for step in example.steps), initial=len(example.question)))[1:]
    return marked(tokens, ends, mark)
