"""V-trace: returns corrected for actions that an older policy chose. B fragments, T steps."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from configs.errors import require
from learners.returns.base import Estimate, Steps, backwards, onwards

__all__ = ["VTrace", "vtrace"]


@torch.no_grad()
def vtrace(steps: Steps, *, gamma: float, rho_bar: float, c_bar: float, lam: float) -> Estimate:
    """Return V-trace targets v_t and advantages r_t + gamma v_{t+1} - V(x_t).

    The weight rho_t of the policy gradient is the loss's affair: it knows the policy in training.

    Args:
      gamma: discount per step.
      rho_bar: largest importance weight of a temporal difference; decides what the fixed point is.
      c_bar: largest weight of a trace; decides how fast it is reached.
      lam: decay of the traces.

    Source: arXiv:1802.01561 eq. 1 in its recursive form (remark 1), lambda from remark 2.
    """
    ratios = steps.log_ratios.exp()
    errors = steps.rewards + gamma * steps.following - steps.values
    deltas = torch.where(steps.mask, ratios.clamp(max=rho_bar) * errors, 0.0)
    decays = gamma * lam * ratios.clamp(max=c_bar) * steps.continues
    targets = steps.values + backwards(deltas, decays)
    advantages = steps.rewards + gamma * onwards(targets, steps.following, steps.continues) - steps.values
    return Estimate(targets, torch.where(steps.mask, advantages, 0.0))


@dataclass(frozen=True, kw_only=True)
class VTrace:
    """V-trace of IMPALA; with `lam` below 1 the traces decay. On-policy and lam=1 it is the n-step return."""

    rho_bar: float = 1.0
    c_bar: float = 1.0
    lam: float = 1.0

    def __post_init__(self) -> None:
        where = "learner.actor_critic.returns"
        require(self.c_bar > 0, f"{where}.c_bar", self.c_bar, "be > 0", "1 is usual")
        require(self.rho_bar >= self.c_bar, f"{where}.rho_bar", self.rho_bar, "be >= c_bar", "1 is usual")
        require(0 <= self.lam <= 1, f"{where}.lam", self.lam, "lie in [0, 1]", "1 is the paper's")

    def __call__(self, steps: Steps, gamma: float) -> Estimate:
        return vtrace(steps, gamma=gamma, rho_bar=self.rho_bar, c_bar=self.c_bar, lam=self.lam)
