"""PRIME: the return to go of step rewards, with a leave-one-out baseline per group."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from learners.advantages.credit import step_mean, to_go, valid_steps, whitened
from learners.advantages.outcome import LeaveOneOut, group_mean
from learners.feedback import Feedback

__all__ = ["ProcessReturn"]


@dataclass(frozen=True, kw_only=True)
class ProcessReturn:
    """Step rewards to go, each r n / (n - 1) minus its group's means / (n - 1); the outcome beside it.

    The means are those of the group's sequences over their steps. n counts the valid sequences of a group that
    have a step; where there is one alone its process part is 0. Each source has its own baseline: the outcome
    part is `leave_one_out`.

    Source: PRIME, arXiv:2502.01456 eq. 5 to 7, as released (`core_algos.py`: RLOO per source, then whitening).
    """

    outcome_weight: float = 1.0
    """Of the outcome part; only its ratio to `step_weight` matters where the sum is whitened."""
    step_weight: float = 1.0
    scale_steps: bool = True
    """Divide step rewards by the largest return to go in the batch, so that their scale does not matter."""
    whiten: bool = True
    """Mean 0 and variance 1 over the loss tokens of the batch."""

    def __call__(self, feedback: Feedback) -> Tensor:
        """Return [B, T] advantages."""
        process = torch.where(feedback.trained, to_go(self._centred(feedback)), 0.0)
        total = self.outcome_weight * LeaveOneOut()(feedback) + self.step_weight * process
        return whitened(total, feedback.trained) if self.whiten else total

    def _centred(self, feedback: Feedback) -> Tensor:
        """Return [B, T]: each valid step's reward minus its baseline, 0 elsewhere."""
        steps = valid_steps(feedback)
        rewards = torch.where(steps, feedback.steps, 0.0)
        if self.scale_steps and rewards.numel():
            rewards = rewards / (to_go(rewards).abs().max() + 1e-6)
        mean, count = group_mean(step_mean(rewards, steps), feedback.groups, steps.any(1))
        others = (count - 1).clamp(min=1)[:, None]
        centred = (rewards - mean[:, None]) * count[:, None] / others
        return torch.where(steps & (count > 1)[:, None], centred, 0.0)
