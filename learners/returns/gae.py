"""Generalised advantage estimation, for actions of the policy in training. B fragments, T steps."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from configs.errors import require
from learners.returns.base import Estimate, Steps, backwards

__all__ = ["GAE", "gae"]


@torch.no_grad()
def gae(steps: Steps, *, gamma: float, lam: float) -> Estimate:
    """Return advantages sum_l (gamma lam)^l delta_{t+l}, and targets that lie an advantage above the values.

    Importance ratios are not looked at: stale steps bias it, see `vtrace`.

    Source: arXiv:1506.02438 eq. 16.
    """
    deltas = torch.where(steps.mask, steps.rewards + gamma * steps.following - steps.values, 0.0)
    advantages = backwards(deltas, gamma * lam * steps.continues.to(deltas.dtype))
    return Estimate(steps.values + advantages, advantages)


@dataclass(frozen=True, kw_only=True)
class GAE:
    """GAE of PPO."""

    lam: float = 0.95

    def __post_init__(self) -> None:
        key = "learner.actor_critic.returns.lam"
        require(0 <= self.lam <= 1, key, self.lam, "lie in [0, 1]", "0.95 is usual")

    def __call__(self, steps: Steps, gamma: float) -> Estimate:
        return gae(steps, gamma=gamma, lam=self.lam)
