"""Importance weights for samples of older weights, and what they say about a batch. B sequences, T tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from learners.losses.base import Denominators, LossInputs, Metrics, aggregate, check_same_shape, log_ratio
from learners.losses.kl import k3

__all__ = ["TruncatedImportance", "effective_sample_size", "mismatch_metrics", "truncated_weights"]


def truncated_weights(log_ratios: Tensor, *, cap: float) -> Tensor:
    """Return [B, T] min(exp(log_ratios), cap), without gradient.

    Args:
      log_ratios: [B, T] nats, 0 at padding.
      cap: largest weight; bounds the variance at the price of a bias.

    Source: Ionides 2008, "Truncated importance sampling"; per token as in arXiv:1802.01561 sec. 4.1 (rho bar).
    """
    return log_ratios.detach().exp().clamp(max=cap)


def mismatch_metrics(proximal: Tensor, behaviour: Tensor, mask: Tensor, denominators: Denominators) -> Metrics:
    """Return how far the weights at the start of the update are from those that sampled.

    Args:
      proximal: [B, T] nats, log pi of the weights at the start of the update.
      behaviour: [B, T] nats, log mu.
      mask: [B, T] bool.

    Raises:
      ValueError: the tensors differ in shape.
    """
    check_same_shape(proximal=proximal, behaviour=behaviour, mask=mask)
    ratios = log_ratio(proximal.detach(), behaviour, mask)
    weights = ratios.exp()
    return {
        "rollout/is_ratio/mean": (weights * mask).sum() / denominators.tokens,
        "rollout/is_ratio/mean_square": (weights.square() * mask).sum() / denominators.tokens,
        "rollout/mismatch_kl/mean": k3(ratios).sum() / denominators.tokens,
    }


def effective_sample_size(mean: float, mean_square: float) -> float:
    """Return (sum w)^2 / (n sum w^2) in (0, 1]: the share of tokens that a weighted mean really uses.

    Args:
      mean, mean_square: moments of the importance weights over all tokens.
    """
    return mean * mean / mean_square if mean_square > 0 else 0.0


@dataclass(frozen=True, kw_only=True)
class TruncatedImportance:
    """Policy gradient with weights min(pi / mu, cap): no clip ever stops a token's gradient."""

    cap: float = 2.0
    aggregation: str = "token"
    """token | sequence"""
    inputs: ClassVar[frozenset[str]] = frozenset({"current", "behaviour"})
    coupling: ClassVar[str] = "sequence"

    def __post_init__(self) -> None:
        if self.cap <= 0:
            raise ValueError(f"cap is {self.cap}; it must be > 0; 2 is usual")

    def __call__(self, tensors: LossInputs, mask: Tensor, denominators: Denominators) -> tuple[Tensor, Metrics]:
        """Return the loss and `policy/clip_frac`, the share of tokens at the cap."""
        ratios = log_ratio(tensors.current, tensors.behaviour, mask)
        weights = truncated_weights(ratios, cap=self.cap)
        # The score function's gradient: d log pi, since the weight is a constant.
        per_token = -weights * tensors.advantages * tensors.current
        capped = (ratios.detach().exp() > self.cap).sum() / denominators.tokens
        return aggregate(per_token, mask, denominators, self.aggregation), {"policy/clip_frac": capped}
