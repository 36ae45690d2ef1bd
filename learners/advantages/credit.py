"""What process estimators share: sums to go, and baselines over the steps of a group."""

from __future__ import annotations

import torch
from torch import Tensor

from learners.advantages.outcome import group_mean
from learners.feedback import Feedback

__all__ = ["against_others", "step_mean", "to_go", "valid_steps", "whitened"]


def valid_steps(feedback: Feedback) -> Tensor:
    """Return [B, T] bool: where a step of a valid sequence ends."""
    return feedback.step_mask & feedback.trained


def to_go(values: Tensor) -> Tensor:
    """Return [B, T]: the sum of `values` [B, T] from each token on, itself included."""
    return values.flip(1).cumsum(1).flip(1)


def against_others(rewards: Tensor, feedback: Feedback) -> Tensor:
    """Return [B, T]: the return to go of `rewards` [B, T] minus a baseline of the other sequences of the group.

    The baseline of a token is the sum of the others' returns over all their tokens, divided by (n - 1) times T,
    the longest sequence of the batch. n counts those with a step; where there is one alone, all is 0.

    Source: PURE, arXiv:2504.15275 sec. 3.3, as released on verl.
    """
    steps = valid_steps(feedback)
    returns = torch.where(feedback.trained, to_go(rewards), 0.0)
    totals = returns.sum(1)
    mean, count = group_mean(totals, feedback.groups, steps.any(1))
    others = (mean * count - totals) / ((count - 1).clamp(min=1) * max(returns.shape[1], 1))
    return torch.where(feedback.trained & (steps.any(1) & (count > 1))[:, None], returns - others[:, None], 0.0)


def step_mean(values: Tensor, steps: Tensor) -> Tensor:
    """Return [B]: the mean of `values` [B, T] over `steps` [B, T] bool; 0 where a sequence has none."""
    return torch.where(steps, values, 0.0).sum(1) / steps.sum(1).clamp(min=1)


def whitened(values: Tensor, mask: Tensor, eps: float = 1e-8) -> Tensor:
    """Return [B, T]: `values` with mean 0 and variance 1 (divisor n - 1) over `mask`, 0 elsewhere.

    Fewer than two tokens have no variance: they are left at their difference from the mean, which is 0.
    """
    count = mask.sum().clamp(min=1)
    deviation = torch.where(mask, values - torch.where(mask, values, 0.0).sum() / count, 0.0)
    variance = deviation.square().sum() / (count - 1).clamp(min=1)
    return deviation * (variance + eps).rsqrt()
