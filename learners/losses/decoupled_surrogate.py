"""Decoupled PPO: clip around recent weights, correct for stale ones apart. B sequences, T tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from learners.losses.base import Denominators, LossInputs, Metrics, aggregate, log_ratio
from learners.losses.clipped_surrogate import check_clip, clipped_surrogate
from learners.losses.importance import truncated_weights

__all__ = ["DecoupledSurrogate"]


@dataclass(frozen=True, kw_only=True)
class DecoupledSurrogate:
    """min(u A, clip(u) A) * min(pi_prox / mu, cap), with u = pi / pi_prox.

    The trust region is centred on the proximal policy (the weights at the start of the update),
    so that a stale sample is down-weighted but not pulled back to its old behaviour.

    Source: arXiv:2505.24298 eq. 5, from arXiv:2110.00641 eq. 2; the cap is ours (`cap: .inf` is the paper).
    """

    epsilon: float = 0.2
    epsilon_high: float | None = None
    """None is `epsilon`."""
    cap: float = 5.0
    """Largest behaviour weight."""
    aggregation: str = "token"
    """token | sequence"""
    inputs: ClassVar[frozenset[str]] = frozenset({"current", "behaviour", "proximal"})
    coupling: ClassVar[str] = "sequence"

    def __post_init__(self) -> None:
        check_clip(self.epsilon, self.epsilon_high)
        if self.cap <= 0:
            raise ValueError(f"cap is {self.cap}; it must be > 0; 5 is usual")

    def __call__(self, tensors: LossInputs, mask: Tensor, denominators: Denominators) -> tuple[Tensor, Metrics]:
        """Return the loss and `policy/clip_frac`."""
        assert tensors.proximal is not None
        high = self.epsilon if self.epsilon_high is None else self.epsilon_high
        ratios = log_ratio(tensors.current, tensors.proximal, mask)
        per_token, cut = clipped_surrogate(ratios, tensors.advantages, epsilon=self.epsilon, epsilon_high=high)
        weights = truncated_weights(log_ratio(tensors.proximal, tensors.behaviour, mask), cap=self.cap)
        loss = aggregate(weights * per_token, mask, denominators, self.aggregation)
        return loss, {"policy/clip_frac": cut.sum() / denominators.tokens}
