"""The plain return to go of step rewards: what policies raise by adding steps, unless the rewards are shaped."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from learners.advantages.credit import against_others, valid_steps
from learners.advantages.outcome import LeaveOneOut
from learners.feedback import Feedback

__all__ = ["ProcessSum"]


@dataclass(frozen=True, kw_only=True)
class ProcessSum:
    """Return to go of step rewards minus a token baseline of the group's others; the outcome beside it.

    The transforms `step_clip` and `step_delta` bound the return, `step_minimum` makes this `process_minimum`.
    The outcome part is `leave_one_out`.

    Source: the sum-form of PURE, arXiv:2504.15275 sec. 3.1 and 3.3; shaped, arXiv:2410.15115 sec. 4.
    """

    outcome_weight: float = 1.0
    step_weight: float = 1.0

    def __call__(self, feedback: Feedback) -> Tensor:
        """Return [B, T] advantages."""
        rewards = torch.where(valid_steps(feedback), feedback.steps, 0.0)
        return self.outcome_weight * LeaveOneOut()(feedback) + self.step_weight * against_others(rewards, feedback)
