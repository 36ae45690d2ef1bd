"""Metrics of an update that every rank can compute by itself. B fragments, T steps."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from buffers.fragment import Fragments
from learners.decision_targets import Targets, masked_moments

__all__ = ["explained_variance", "reward_metrics", "target_metrics"]

Metrics = dict[str, float]


def reward_metrics(fragments: Fragments, rewards: NDArray[np.float32]) -> Metrics:
    """Return means over decided steps; of intrinsic rewards over those that were given, and none where none was.

    Args:
      rewards: [B, T] total rewards, not yet scaled.
    """
    mask = fragments.mask
    intrinsic = fragments.intrinsic_rewards[mask]
    given = intrinsic[~np.isnan(intrinsic)]
    metrics = {
        "reward/mean": mean(rewards[mask]),
        "reward/extrinsic_mean": mean(fragments.rewards[mask]),
        "reward/intrinsic_coverage": len(given) / max(1, len(intrinsic)),
    }
    return metrics | ({"reward/intrinsic_mean": mean(given)} if len(given) else {})


def target_metrics(targets: Targets, mask: Tensor) -> Metrics:
    """Return what the critic's targets look like over the steps of a mask."""
    return {
        "returns/mean": float(masked_moments(targets.returns, mask)[0]),
        "value/mean": float(masked_moments(targets.values, mask)[0]),
        "value/explained_variance": explained_variance(targets.values, targets.returns, mask),
        "advantage/std": float(masked_moments(targets.advantages, mask)[1]),
    }


def explained_variance(values: Tensor, returns: Tensor, mask: Tensor) -> float:
    """Return 1 - Var(returns - values) / Var(returns): 1 is a perfect critic, 0 a constant one."""
    spread = float(masked_moments(returns, mask)[1])
    left = float(masked_moments(returns - values, mask)[1])
    return 1 - (left / spread) ** 2 if spread > 0 else 0.0


def mean(values: NDArray[np.float32]) -> float:
    return float(values.mean()) if len(values) else 0.0
