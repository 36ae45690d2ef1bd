"""Advantages from the rewards of a group: what one sample did better than its siblings.

Dimensions: B sequences, T loss tokens. A sequence whose reward is invalid is in no baseline and
gets 0 everywhere; the learner also leaves it out of the loss, so that a reward server's time-out
is never read as a reward of 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from learners.feedback import Feedback

__all__ = ["GroupCentred", "GroupNormalised", "LeaveOneOut", "group_mean", "spread"]


def group_mean(values: Tensor, groups: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Return ([B] mean of each sequence's group, [B] count) over valid members.

    Args:
      values: [B] float.
      groups: [B] int64, group ordinal.
      valid: [B] bool.

    Raises:
      ValueError: the three differ in shape.
    """
    if not values.shape == groups.shape == valid.shape:
        raise ValueError(f"rewards {values.shape}, groups {groups.shape}, valid {valid.shape} must have one shape")
    size = int(groups.max()) + 1 if len(groups) else 0
    weight = valid.to(values.dtype)
    # Where, not a product: the value of an invalid member may be NaN.
    totals = values.new_zeros(size).index_add_(0, groups, torch.where(valid, values, 0.0))
    counts = values.new_zeros(size).index_add_(0, groups, weight)
    return (totals / counts.clamp(min=1))[groups], counts[groups]


def spread(values: Tensor, feedback: Feedback) -> Tensor:
    """Return [B, T]: each sequence's value of `values` [B] at its loss tokens, 0 elsewhere."""
    return torch.where(feedback.trained, values[:, None], 0.0)


def centred(feedback: Feedback) -> tuple[Tensor, Tensor]:
    """Return ([B] outcome minus its group's mean, 0 where invalid; [B] valid members of the group)."""
    mean, count = group_mean(feedback.outcome, feedback.groups, feedback.valid)
    return torch.where(feedback.valid, feedback.outcome - mean, 0.0), count


@dataclass(frozen=True, kw_only=True)
class GroupNormalised:
    """(r - mean) / (std + eps) within the group.

    Source: arXiv:2402.03300 sec. 4.1.2. The paper does not say which standard deviation; released
    trainers use the sample one (divisor n - 1), and so does the default here.
    """

    eps: float = 1e-4
    """Reward units; keeps a group without spread at 0."""
    unbiased: bool = True
    """True divides the variance by n - 1 (sample), False by n (population)."""

    def __call__(self, feedback: Feedback) -> Tensor:
        """Return [B, T] advantages."""
        deviation, count = centred(feedback)
        mean_square, _ = group_mean(deviation.square(), feedback.groups, feedback.valid)
        variance = mean_square * count / (count - 1).clamp(min=1) if self.unbiased else mean_square
        return spread(deviation / (variance.sqrt() + self.eps), feedback)


@dataclass(frozen=True, kw_only=True)
class GroupCentred:
    """r - mean within the group, without the division that favours easy and hard tasks.

    Source: arXiv:2503.20783 sec. 3.2 (Dr. GRPO).
    """

    def __call__(self, feedback: Feedback) -> Tensor:
        """Return [B, T] advantages."""
        return spread(centred(feedback)[0], feedback)


@dataclass(frozen=True, kw_only=True)
class LeaveOneOut:
    """r minus the mean of the other valid members; 0 where there is no other.

    Source: arXiv:2402.14740 sec. 3.2 (RLOO).
    """

    def __call__(self, feedback: Feedback) -> Tensor:
        """Return [B, T] advantages."""
        deviation, count = centred(feedback)
        # r - (sum - r) / (n - 1) = (r - mean) * n / (n - 1)
        return spread(deviation * count / (count - 1).clamp(min=1), feedback)
