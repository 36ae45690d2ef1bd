"""PURE: a solution is as good as its worst step, which alone earns credit."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from learners.advantages.credit import against_others, valid_steps
from learners.advantages.outcome import LeaveOneOut
from learners.feedback import Feedback

__all__ = ["ProcessMinimum", "minimum_form"]


def minimum_form(rewards: Tensor, steps: Tensor, temperature: float) -> Tensor:
    """Return [B, T]: w r, w the softmax of -r / temperature over the steps of a sequence; 0 elsewhere.

    Its return to go is about the smallest step reward up to the worst step, and about 0 after it.

    Args:
      rewards: [B, T] reward units.
      steps: [B, T] bool, where a step ends.
      temperature: reward units; towards 0 the worst step alone counts.

    Source: PURE, arXiv:2504.15275 sec. 3.2.
    """
    logits = torch.where(steps, -rewards / temperature, -torch.inf)
    # A sequence without steps has no softmax: its NaN is replaced before anything reads it.
    return torch.where(steps, logits.softmax(1) * rewards, 0.0)


@dataclass(frozen=True, kw_only=True)
class ProcessMinimum:
    """Return to go of min-form step rewards minus a token baseline of the group's others; the outcome beside it.

    The baseline is that of `against_others`. The outcome part is `leave_one_out`.

    Source: PURE, arXiv:2504.15275 sec. 3.2 and 3.3, as released on verl.
    """

    outcome_weight: float = 1.0
    step_weight: float = 1.0
    temperature: float = 0.1
    """Reward units, of the softmin."""

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ValueError(f"temperature is {self.temperature}; it must be > 0; 0.1 is usual")

    def __call__(self, feedback: Feedback) -> Tensor:
        """Return [B, T] advantages."""
        rewards = minimum_form(feedback.steps, valid_steps(feedback), self.temperature)
        return self.outcome_weight * LeaveOneOut()(feedback) + self.step_weight * against_others(rewards, feedback)
