"""What the rewards say of a batch, as an advantage estimator reads it. B sequences, T loss tokens, left-aligned."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from learners.batch import Batch

__all__ = ["Advantage", "Feedback", "read_feedback"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Feedback:
    """Rewards of whole sequences and of their steps; nothing is said of what is not `valid`."""

    outcome: Tensor
    """[B] float64, reward units: the total of each sequence."""
    steps: Tensor
    """[B, T] float64, reward units: the reward of each step at its last loss token, 0 elsewhere."""
    step_mask: Tensor
    """[B, T] bool, where a step ends; a step may well be worth 0."""
    groups: Tensor
    """[B] int64, group ordinal."""
    valid: Tensor
    """[B] bool, the sequence has a reward."""
    mask: Tensor
    """[B, T] bool, loss tokens."""

    @property
    def trained(self) -> Tensor:
        """[B, T] bool, loss tokens of valid sequences."""
        return self.mask & self.valid[:, None]


Advantage = Callable[[Feedback], Tensor]
"""An estimator: feedback -> [B, T] advantages."""


def read_feedback(batch: Batch) -> Feedback:
    """Return the feedback of a batch; T is the largest number of loss tokens."""
    lengths = np.array([len(item.targets) for item in batch.items], np.int64)
    width = int(lengths.max(initial=0))
    steps, ends = np.zeros((len(lengths), width)), np.zeros((len(lengths), width), bool)
    for row, (places, values) in enumerate(batch.steps):
        np.add.at(steps[row], places, values)  # two steps may share their last loss token
        ends[row, places] = True
    return Feedback(
        outcome=torch.from_numpy(batch.rewards),
        steps=torch.from_numpy(steps),
        step_mask=torch.from_numpy(ends),
        groups=torch.from_numpy(batch.groups),
        valid=torch.from_numpy(batch.valid),
        mask=torch.from_numpy(np.arange(width) < lengths[:, None]),
    )
