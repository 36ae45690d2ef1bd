"""IMPACT's surrogate: a clip around a target network that is older than the weights and newer than the actors.

B sequences, T tokens.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from learners.losses.base import Denominators, LossInputs, Metrics, aggregate, log_ratio
from learners.losses.clipped_surrogate import check_clip, clipped_surrogate

__all__ = ["TargetSurrogate"]


@dataclass(frozen=True, kw_only=True)
class TargetSurrogate:
    """min(r A, clip(r) A) with r = min(mu / pi_target, rho) * pi / mu.

    Up to the cap r is pi / pi_target, so that stale samples do not fill up the trust region; beyond it, the sample
    was far likelier under the actor than under the target, and r stays small.

    Source: arXiv:1912.00167 sec. 3.1 (surrogate target network with clipped ratio).
    """

    epsilon: float = 0.4
    epsilon_high: float | None = None
    """None is `epsilon`."""
    rho: float = 2.0
    """Largest mu / pi_target."""
    aggregation: str = "token"
    """token | sequence"""
    inputs: ClassVar[frozenset[str]] = frozenset({"current", "behaviour", "target"})
    coupling: ClassVar[str] = "sequence"

    def __post_init__(self) -> None:
        check_clip(self.epsilon, self.epsilon_high)
        if self.rho <= 0:
            raise ValueError(f"rho is {self.rho}; it must be > 0; 2 is usual")

    def __call__(self, tensors: LossInputs, mask: Tensor, denominators: Denominators) -> tuple[Tensor, Metrics]:
        """Return the loss and `policy/clip_frac`."""
        assert tensors.target is not None
        high = self.epsilon if self.epsilon_high is None else self.epsilon_high
        capped = log_ratio(tensors.behaviour, tensors.target, mask).clamp(max=math.log(self.rho))
        ratios = capped + log_ratio(tensors.current, tensors.behaviour, mask)
        per_token, cut = clipped_surrogate(ratios, tensors.advantages, epsilon=self.epsilon, epsilon_high=high)
        loss = aggregate(per_token, mask, denominators, self.aggregation)
        return loss, {"policy/clip_frac": cut.sum() / denominators.tokens}
