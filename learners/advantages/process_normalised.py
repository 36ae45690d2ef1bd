"""GRPO with process supervision: step rewards, normalised over all steps of the group, summed to go."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from learners.advantages.credit import to_go, valid_steps
from learners.advantages.outcome import GroupNormalised
from learners.feedback import Feedback

__all__ = ["ProcessNormalised"]


@dataclass(frozen=True, kw_only=True)
class ProcessNormalised:
    """Sum over the steps from here on of (r - mean) / (std + eps), over all steps of the group; the outcome beside it.

    Source: arXiv:2402.03300 sec. 4.1.3. The outcome part, which the paper trains apart, is `group_normalised`;
    weighing the two as (1 - a) and a is arXiv:2505.15034's mixture.
    """

    outcome_weight: float = 1.0
    """Of the outcome part; 0 leaves process supervision alone."""
    step_weight: float = 1.0
    eps: float = 1e-4
    """Reward units; keeps steps without spread at 0."""
    unbiased: bool = True
    """True divides variances by n - 1 (sample), False by n (population)."""

    def __call__(self, feedback: Feedback) -> Tensor:
        """Return [B, T] advantages."""
        outcome = GroupNormalised(eps=self.eps, unbiased=self.unbiased)(feedback)
        process = torch.where(feedback.trained, to_go(self._normalised(feedback)), 0.0)
        return self.outcome_weight * outcome + self.step_weight * process

    def _normalised(self, feedback: Feedback) -> Tensor:
        """Return [B, T]: the normalised reward of each valid step, 0 elsewhere."""
        steps, groups = valid_steps(feedback), feedback.groups

        def over_group(values: Tensor) -> Tensor:
            size = int(groups.max()) + 1 if len(groups) else 0
            return values.new_zeros(size).index_add_(0, groups, values.sum(1))[groups][:, None]

        count = over_group(steps.to(feedback.steps.dtype))
        mean = over_group(torch.where(steps, feedback.steps, 0.0)) / count.clamp(min=1)
        deviation = torch.where(steps, feedback.steps - mean, 0.0)
        variance = over_group(deviation.square()) / (count - int(self.unbiased)).clamp(min=1)
        return deviation / (variance.sqrt() + self.eps)
