"""The contract of returns: one fragment's steps with every boundary already resolved. B fragments, T steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

__all__ = ["Estimate", "Returns", "Steps", "boundaries"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Steps:
    """What happened and what the critic thinks of it; no gradient. All [B, T]; where `mask` is False nothing counts."""

    log_ratios: Tensor
    """nats, log pi - log mu of the actions"""
    rewards: Tensor
    """reward units"""
    values: Tensor
    """V(x_t)"""
    following: Tensor
    """V of what the step led to: 0 after a termination, V(final observation) after a truncation."""
    continues: Tensor
    """bool, the next row is the next step of the same episode."""
    mask: Tensor
    """bool, a decision was made."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """[B, T] each, in reward units; at steps without a decision the target is the value and the advantage 0."""

    targets: Tensor
    """What the critic should say."""
    advantages: Tensor


class Returns(Protocol):
    """A way to estimate returns."""

    def __call__(self, steps: Steps, gamma: float) -> Estimate:
        """Return value targets and advantages of steps discounted by `gamma`."""
        ...


def boundaries(
    values: Tensor, finals: Tensor, *, terminated: Tensor, truncated: Tensor, mask: Tensor
) -> tuple[Tensor, Tensor]:
    """Return (`Steps.following`, `Steps.continues`).

    Args:
      values: [B, T + 1]
      finals: [truncated.sum()] V(final observation), in the order of argwhere(truncated).
      terminated, truncated, mask: [B, T] bool. A step that is both is terminated: nothing follows it.

    Raises:
      ValueError: shapes do not fit.
    """
    B, T = mask.shape
    if values.shape != (B, T + 1) or len(finals) != int(truncated.sum()):
        raise ValueError(f"values {tuple(values.shape)}, {len(finals)} finals do not fit a mask of {(B, T)}")
    following = values[:, 1:].masked_scatter(truncated, finals).masked_fill(terminated, 0.0)
    return following, mask & ~(terminated | truncated)


def onwards(future: Tensor, at_end: Tensor, continues: Tensor) -> Tensor:
    """Return [B, T]: at t what `future` holds at t + 1, and `at_end` where the episode or the fragment ends.

    Args:
      future, at_end: [B, T]
    """
    shifted = torch.cat([future[:, 1:], at_end[:, -1:]], 1)
    return torch.where(continues, shifted, at_end)


def backwards(deltas: Tensor, decays: Tensor) -> Tensor:
    """Return [B, T] x_t = deltas_t + decays_t x_{t+1}, from the last step back; x after it is 0."""
    sums, last = torch.empty_like(deltas), deltas.new_zeros(len(deltas))
    for t in reversed(range(deltas.shape[1])):
        sums[:, t] = last = torch.addcmul(deltas[:, t], decays[:, t], last)
    return sums
