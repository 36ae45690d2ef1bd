"""PPO's clipped surrogate on the behaviour policy's ratio. B sequences, T tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from learners.losses.base import Denominators, LossInputs, Metrics, aggregate, check_same_shape, log_ratio

__all__ = ["ClippedSurrogate", "check_clip", "clipped_surrogate"]


def clipped_surrogate(
    log_ratios: Tensor, advantages: Tensor, *, epsilon: float, epsilon_high: float
) -> tuple[Tensor, Tensor]:
    """Return ([B, T] loss of each token, [B, T] bool where the clip cut the gradient).

    Args:
      log_ratios: [B, T] nats, log pi - log pi_old; carries gradient; 0 at padding.
      advantages: [B, T] reward units.
      epsilon, epsilon_high: the ratio is clamped to [1 - epsilon, 1 + epsilon_high].

    Raises:
      ValueError: the two tensors differ in shape.

    Source: arXiv:1707.06347 eq. 7; separate clips from arXiv:2503.14476 sec. 3.1.
    """
    check_same_shape(log_ratios=log_ratios, advantages=advantages)
    ratio = log_ratios.exp()
    plain, clipped = ratio * advantages, ratio.clamp(1 - epsilon, 1 + epsilon_high) * advantages
    return -torch.minimum(plain, clipped), clipped < plain


def check_clip(epsilon: float, epsilon_high: float | None) -> None:
    """Refuse clips that are no interval around 1.

    Raises:
      ValueError: a bound is out of range.
    """
    if not 0 <= epsilon <= 1:
        raise ValueError(f"epsilon is {epsilon}; it must lie in [0, 1]; 0.2 is usual")
    if epsilon_high is not None and epsilon_high < 0:
        raise ValueError(f"epsilon_high is {epsilon_high}; it must be >= 0; leave it out to use epsilon")


@dataclass(frozen=True, kw_only=True)
class ClippedSurrogate:
    """PPO / GRPO loss; the old policy is the one that sampled each token, however stale."""

    epsilon: float = 0.2
    epsilon_high: float | None = None
    """None is `epsilon`."""
    aggregation: str = "token"
    """token | sequence"""
    inputs: ClassVar[frozenset[str]] = frozenset({"current", "behaviour"})
    coupling: ClassVar[str] = "sequence"

    def __post_init__(self) -> None:
        check_clip(self.epsilon, self.epsilon_high)

    def __call__(self, tensors: LossInputs, mask: Tensor, denominators: Denominators) -> tuple[Tensor, Metrics]:
        """Return the loss and `policy/clip_frac`."""
        high = self.epsilon if self.epsilon_high is None else self.epsilon_high
        ratios = log_ratio(tensors.current, tensors.behaviour, mask)
        per_token, cut = clipped_surrogate(ratios, tensors.advantages, epsilon=self.epsilon, epsilon_high=high)
        loss = aggregate(per_token, mask, denominators, self.aggregation)
        return loss, {"policy/clip_frac": cut.sum() / denominators.tokens}
